// A fresh Chromium for a test. Playwright comes from the folder that `cargo xtask tools` filled.
import { createRequire } from 'node:module';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const modules = process.env.BERTH_NODE_MODULES;
if (!modules) throw new Error('BERTH_NODE_MODULES is not set: run this through `cargo xtask test end2end`');
const { chromium } = createRequire(join(modules, 'x.js'))('playwright-core');

const FLAGS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
];

/** Runs `use` with a page in a browser with a profile of its own, and removes both. */
export async function withPage(options, use) {
  const profile = mkdtempSync(join(tmpdir(), 'berth-chromium-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.BERTH_CHROMIUM ?? '/usr/bin/chromium', args: FLAGS, ...options,
  });
  try {
    return await use(context.pages()[0] ?? await context.newPage(), context);
  } finally {
    await context.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}
