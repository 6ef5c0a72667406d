// A customer on a phone and one at a desk: sign in, order a Debian server, watch it come up, see its
// load move, stop it, start it, delete it. The guest itself is asked over SSH whether it has the name
// and the key that were asked for. Pictures of every station are kept in end2end/artefacts.
//
// Needs a running Berth: BERTH_URL and the customer's sign-in, as `cargo xtask up` leaves them in its
// env file.
import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { withPage } from './chromium.mjs';
import { artefacts, signIn, until } from './panel.mjs';

const { BERTH_URL, BERTH_CUSTOMER_EMAIL } = process.env;
// A Debian guest under pure emulation on a loaded machine takes minutes.
const BOOT_MS = 900_000, QUICK_MS = 60_000, STOP_MS = 300_000;
const run = promisify(execFile);

describe('a customer rents a server', { concurrency: 2 }, () => {
  let folder;
  before(() => {
    mkdirSync(artefacts, { recursive: true });
    folder = mkdtempSync(join(tmpdir(), 'berth-browser-'));
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  for (const [width, height] of [[390, 844], [1280, 800]]) {
    test(`at ${width} px, from sign-in to a Debian server and back to nothing`, () =>
      withPage({ viewport: { width, height }, hasTouch: width < 720 }, page => rent(page, width, folder)));
  }
});

async function rent(page, width, folder) {
  let number = 0;
  const picture = name =>
    page.screenshot({ path: join(artefacts, `${width}-${String(++number).padStart(2, '0')}-${name}.png`), fullPage: true });
  const faults = [];
  page.on('pageerror', error => faults.push(String(error)));
  page.on('console', message => {
    if (message.type() === 'error' && !/status of (401|404)/.test(message.text())) faults.push(message.text());
  });
  const name = `browser-${width}`;
  const key = await newKey(folder, name);

  await page.goto(BERTH_URL);
  await page.getByLabel('Email').fill(BERTH_CUSTOMER_EMAIL);
  await page.getByLabel('Password', { exact: true }).fill('not the password');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByText('That email and password don’t match.').waitFor();
  await picture('sign-in-refused');
  await signIn(page);
  await picture('servers');

  await page.goto(`${BERTH_URL}/servers/new`);
  await page.getByRole('button', { name: 'Add a key' }).click();
  await page.getByLabel('Public key').fill(key.publicText);
  await page.getByLabel('Name of the key').fill(name);
  await page.getByRole('button', { name: 'Add key' }).click();
  await page.locator('label', { hasText: name }).first().waitFor();
  await chooseOnlyKey(page, name);
  await page.locator('label', { hasText: 'Debian 12' }).click();
  await page.getByLabel('Name', { exact: true }).fill('not a host name');
  await page.getByRole('button', { name: 'Create server' }).locator('visible=true').click();
  await page.getByText('letters, digits, dots and hyphens only').first().waitFor();
  await picture('order-refused');
  await page.getByLabel('Name', { exact: true }).fill(name);
  await picture('order');
  await page.getByRole('button', { name: 'Create server' }).locator('visible=true').click();

  await page.getByRole('heading', { name, level: 1 }).waitFor();
  const state = page.getByTestId('state');
  await picture('creating');
  await says(state, 'Running', STOP_MS);
  await picture('running');
  const address = (await page.getByText(/^10\.\d+\.\d+\.\d+$/).first().textContent()).trim();

  const cpu = page.getByRole('img', { name: /^CPU in the last 10 minutes/ });
  await cpu.waitFor({ timeout: QUICK_MS });
  const drawn = () => cpu.locator('path').last().getAttribute('d');
  const first = await drawn();
  await until('the chart moves', QUICK_MS, async () => (await drawn()) !== first);
  await picture('load');

  const told = await until(`${name} answers over SSH`, BOOT_MS, () => key.ask(address, 'hostname; cat ~/.ssh/authorized_keys'));
  const [hostname, ...keys] = told.trim().split('\n');
  assert.equal(hostname, name, 'the guest has the asked host name');
  assert.ok(keys.some(line => line.includes(key.publicText.split(' ')[1])), 'the guest has the asked key');

  await choose(page, 'Shut down');
  await page.getByRole('dialog').getByRole('button', { name: 'Shut down' }).click();
  await says(state, 'Off', STOP_MS);
  await picture('off');
  await page.getByRole('button', { name: 'Start', exact: true }).click();
  await says(state, 'Running', STOP_MS);
  await until(`${name} answers again`, BOOT_MS, () => key.ask(address, 'true').then(() => true));
  await picture('running-again');

  await page.getByRole('button', { name: /^Delete/ }).last().click();
  const dialog = page.getByRole('dialog');
  assert.ok(await dialog.getByRole('button', { name: 'Delete server' }).isDisabled(), 'its name is asked for first');
  await dialog.getByLabel('Name of the server').fill(name);
  await picture('delete');
  await dialog.getByRole('button', { name: 'Delete server' }).click();
  await page.waitForURL(`${BERTH_URL}/servers`, { timeout: STOP_MS });
  await page.getByRole('link', { name, exact: true }).waitFor({ state: 'detached', timeout: QUICK_MS });
  await picture('gone');
  assert.deepEqual(faults, [], 'the browser reported no errors');
}

/** Other tests add keys to the same project; this server gets its own only. */
async function chooseOnlyKey(page, name) {
  for (const box of await page.locator('input[name=ssh_keys]').all()) {
    const own = (await box.locator('xpath=ancestor::label').textContent()).includes(name);
    if (await box.isChecked() !== own) await box.locator('xpath=ancestor::label').click();
  }
}

async function choose(page, entry) {
  await page.getByRole('button', { name: 'Power' }).click();
  await page.getByRole('menuitem', { name: new RegExp(`^${entry}`) }).click();
}

const says = (locator, word, patience) =>
  until(`the state says ${word}`, patience, async () => (await locator.textContent()).trim() === word);

async function newKey(folder, name) {
  const file = join(folder, name);
  await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', name, '-f', file]);
  const options = [
    '-i', file, '-o', 'StrictHostKeyChecking=no', '-o', `UserKnownHostsFile=${file}.hosts`,
    '-o', 'BatchMode=yes', '-o', 'ConnectTimeout=10', '-o', 'LogLevel=ERROR',
  ];
  const ask = async (address, command) => {
    try {
      return (await run('ssh', [...options, `root@${address}`, command], { timeout: 60_000 })).stdout || ' ';
    } catch {
      return undefined;
    }
  };
  return { publicText: readFileSync(`${file}.pub`, 'utf8').trim(), ask };
}
