// Copies the addon and the libraries that must travel with it into one folder.
//
//   node stage.mjs <addon> <folder>
//
// Which libraries: oneDNN, OpenMP's runtime, and the OpenCL loader that some distributions' oneDNN
// asks for. They are copied under the name the addon asks for (the soname). The C and C++ runtimes
// are every system's own. The licence texts go along where the system has them.
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  rmSync,
} from 'node:fs';
import path from 'node:path';

const [addon, folder] = process.argv.slice(2);
const travels = /^lib(dnnl|gomp|omp|iomp5|OpenCL)\.so/;
const packages = { dnnl: 'libdnnl2', gomp: 'libgomp1', OpenCL: 'ocl-icd-libopencl1' };

mkdirSync(folder, { recursive: true });
const licences = path.join(folder, 'LICENSES.txt');
rmSync(licences, { force: true });
for (const line of execFileSync('ldd', [addon], { encoding: 'utf8' }).split('\n')) {
  const [, soname, file] = /^\s*(\S+) => (\/\S+)/.exec(line) ?? [];
  if (!soname || !travels.test(soname)) continue;
  copyFileSync(realpathSync(file), path.join(folder, soname));
  const text = `/usr/share/doc/${packages[travels.exec(soname)[1]]}/copyright`;
  if (existsSync(text)) appendFileSync(licences, `==== ${soname} ====\n\n${readFileSync(text, 'utf8')}\n`);
}
copyFileSync(addon, path.join(folder, path.basename(addon)));
