// What the tests of the panel share.
import assert from 'node:assert/strict';
import { join } from 'node:path';

const { BERTH_URL, BERTH_CUSTOMER_EMAIL, BERTH_CUSTOMER_PASSWORD } = process.env;

/** Where pictures are kept. */
export const artefacts = join(import.meta.dirname, '../artefacts');

/** Signs the customer in. */
export async function signIn(page) {
  await page.goto(BERTH_URL);
  await page.getByLabel('Email').fill(BERTH_CUSTOMER_EMAIL);
  await page.getByLabel('Password', { exact: true }).fill(BERTH_CUSTOMER_PASSWORD);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('heading', { name: 'Servers', level: 1 }).waitFor();
}

/** Asks again and again until it gets something. */
export async function until(what, patience, ask) {
  const end = Date.now() + patience;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    assert.ok(Date.now() < end, `${what}: not within ${patience / 1000} s`);
    await new Promise(resolve => setTimeout(resolve, 250));
  }
}
