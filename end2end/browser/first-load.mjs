// Prints what the first visit to BERTH_URL costs, as one line of JSON: see src/bench/first_load.rs.
import { withPage } from './chromium.mjs';

const url = process.env.BERTH_URL;
const phone = { viewport: { width: 390, height: 844 } };
// Chrome's own "Slow 4G": 562.5 ms of latency, 1.44 Mbit/s down, 675 kbit/s up.
const SLOW_4G = { offline: false, latency: 562.5, downloadThroughput: 180_000, uploadThroughput: 84_375 };

const firstPaint = address => withPage(phone, async (page, context) => {
  const devtools = await context.newCDPSession(page);
  await devtools.send('Network.enable');
  await devtools.send('Network.emulateNetworkConditions', SLOW_4G);
  await devtools.send('Emulation.setCPUThrottlingRate', { rate: 4 });
  await page.goto(address, { waitUntil: 'load' });
  const paint = () => performance.getEntriesByName('first-contentful-paint')[0]?.startTime;
  return (await page.waitForFunction(paint)).jsonValue();
});

const transferred = await withPage(phone, async (page, context) => {
  const devtools = await context.newCDPSession(page);
  await devtools.send('Network.enable');
  const kinds = new Map(), bytes = { all: 0, document: 0 };
  devtools.on('Network.requestWillBeSent', e => kinds.set(e.requestId, e.type));
  devtools.on('Network.loadingFinished', e => {
    bytes.all += e.encodedDataLength;
    if (kinds.get(e.requestId) === 'Document') bytes.document += e.encodedDataLength;
  });
  await page.goto(url, { waitUntil: 'networkidle' });
  return bytes;
});

const median = async measure => {
  const values = [];
  for (let n = 0; n < 3; n++) values.push(await measure());
  return values.sort((a, b) => a - b)[1];
};
console.log(JSON.stringify({
  transferred_bytes: transferred.all,
  document_bytes: transferred.document,
  first_paint_ms: await median(() => firstPaint(url)),
  empty_first_paint_ms: await median(() => firstPaint(`${url}/robots.txt`)),
}));
