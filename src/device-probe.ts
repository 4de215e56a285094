/** Run in a process of its own by device.ts: tells the GPUs, or why there are none, as one line of JSON. */

import { codeOf, messageOf } from './errors.js';
import { native } from './native.js';

function answer(): unknown {
  try {
    return { gpus: native.describeDevices('cuda') };
  } catch (error) {
    return { problem: messageOf(error), code: codeOf(error) ?? 'INTERNAL' };
  }
}

process.stdout.write(JSON.stringify(answer()));
