// The largest resident size this process has had, in bytes.
import { readFileSync } from 'node:fs';

export function peakBytes(): number {
  try {
    const line = /^VmHWM:\s*(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'));
    if (line) return Number(line[1]) * 1024;
  } catch {
    // Not a Linux machine.
  }
  return process.resourceUsage().maxRSS * 1024;
}
