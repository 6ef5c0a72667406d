// Makes what was built small: scripts and styles lose what only people read (esbuild), and every file
// gets a name.br and a name.gz beside it when that is smaller, so that the server never compresses
// while somebody waits. Run by Trunk after a build; does nothing for debug builds, where it would cost
// seconds and win none.
import { execFileSync } from 'node:child_process';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import zlib from 'node:zlib';

const brotli = promisify(zlib.brotliCompress), gzip = promisify(zlib.gzip);
const minified = (path) => execFileSync('esbuild', [path, '--minify', '--target=esnext', '--log-level=warning']);
const staging = process.env.TRUNK_STAGING_DIR;
if (!staging) throw new Error('TRUNK_STAGING_DIR is not set: this is a hook of Trunk');
if (process.env.TRUNK_PROFILE === 'release') {
  const entries = await readdir(staging, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile() && !/\.(br|gz)$/.test(entry.name));
  await Promise.all(files.map(async (entry) => {
    const path = join(entry.parentPath ?? entry.path, entry.name), isText = /\.(js|css)$/.test(path);
    const data = isText ? minified(path) : await readFile(path);
    if (isText) await writeFile(path, data);
    const packed = await Promise.all([
      brotli(data, { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 11, [zlib.constants.BROTLI_PARAM_LGWIN]: 22, [zlib.constants.BROTLI_PARAM_SIZE_HINT]: data.length } }),
      gzip(data, { level: 9 }),
    ]);
    for (const [n, ending] of ['br', 'gz'].entries()) {
      if (packed[n].length < data.length) await writeFile(`${path}.${ending}`, packed[n]);
    }
  }));
}
