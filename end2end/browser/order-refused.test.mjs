// What the order page says when something is wrong: at the field, in words, with nothing lost. The
// last cases are refused by the control plane itself, because the page could not know.
import { before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { withPage } from './chromium.mjs';
import { artefacts, signIn } from './panel.mjs';

const { BERTH_URL, BERTH_TOKEN } = process.env;
const KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl';

async function api(method, path, body) {
  const reply = await fetch(`${BERTH_URL}/v1${path}`, {
    method, body: body && JSON.stringify(body),
    headers: { authorization: `Bearer ${BERTH_TOKEN}`, 'content-type': 'application/json' },
  });
  assert.ok(reply.ok, `${method} ${path}: ${reply.status}`);
  return reply.status === 204 ? null : reply.json();
}

describe('an order that cannot be carried out', () => {
  before(() => mkdirSync(artefacts, { recursive: true }));
  for (const [width, height] of [[390, 844], [1280, 800]]) {
    test(`says at ${width} px what is wrong, and keeps what was typed`, () =>
      withPage({ viewport: { width, height } }, page => refused(page, width)));
  }
});

async function refused(page, width) {
  await signIn(page);
  const { ssh_key: key } = await api('POST', '/ssh_keys', { name: `lost-${width}`, public_key: `${KEY} lost` });
  await page.goto(`${BERTH_URL}/servers/new`);
  const name = page.getByLabel('Name', { exact: true });
  const submit = () => page.getByRole('button', { name: 'Create server' }).locator('visible=true').click();
  const says = text => page.getByText(text).first().waitFor();
  await page.locator('label', { hasText: key.name }).waitFor();

  for (const [typed, sentence] of [
    ['', 'Enter a name.'],
    ['a'.repeat(64), 'A name has at most 63 characters.'],
    ['web_1', 'letters, digits, dots and hyphens only'],
    ['-web', 'begins and ends with a letter or a digit'],
  ]) {
    await name.fill(typed);
    await submit();
    await says(sentence);
    assert.equal(await name.inputValue(), typed, 'what was typed stays');
  }
  await name.fill(`refused-${width}`);

  await page.getByText('Labels, cloud-init').click();
  await page.getByLabel('Labels', { exact: true }).fill('role=web, -x=1');
  await page.getByLabel('User data').fill('#'.repeat(32 * 1024 + 1));
  await submit();
  await says(/“-x=1”/);
  await says('User data has at most 32 KiB.');
  await page.screenshot({ path: join(artefacts, `${width}-refused-labels.png`), fullPage: true });
  await page.getByLabel('Labels', { exact: true }).fill('role=web');
  await page.getByLabel('User data').fill('');

  await page.getByRole('button', { name: 'Add a key' }).click();
  await page.getByLabel('Name of the key').fill('typed');
  for (const [typed, sentence] of [
    ['hello', 'This is not an OpenSSH public key.'],
    ['-----BEGIN OPENSSH PRIVATE KEY-----', 'This is a private key.'],
  ]) {
    await page.getByLabel('Public key').fill(typed);
    await page.getByRole('button', { name: 'Add key' }).click();
    await says(sentence);
  }
  await page.getByRole('button', { name: 'Cancel' }).click();

  // A key that somebody deleted while this page was open.
  const box = page.locator('input[name=ssh_keys]').and(page.locator(`[value="${key.id}"]`));
  if (!await box.isChecked()) await page.locator('label', { hasText: key.name }).click();
  await api('DELETE', `/ssh_keys/${key.id}`);
  await submit();
  await page.locator('#order-errors').getByText('SSH keys').waitFor();
  await page.screenshot({ path: join(artefacts, `${width}-refused-key.png`), fullPage: true });
  assert.equal(await name.inputValue(), `refused-${width}`, 'what was typed stays');
  const { servers } = await api('GET', `/servers?name=refused-${width}`);
  assert.deepEqual(servers, [], 'nothing was ordered');
}
