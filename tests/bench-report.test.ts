// What a benchmark prints of one case.

import { expect, test } from 'vitest';
import { type CaseResult, describeCase } from '../bench/report.js';

const ours = {
  name: 'duet-train',
  ...{ median: 2, min: 1.9, max: 2.2, seconds: [2, 2.2, 1.9] },
  ...{ processorSeconds: 2.05, processorSteps: [2.05, 2.31, 1.93], processorUse: 0.99 },
  ...{ peakBytes: 1e9, importedBytes: 1e8 },
};
const alone: CaseResult = {
  ...{ title: 'small, 2 clips', dtype: 'fp32', threads: 1, apart: false, ours },
  work: { total: 1e11, parts: {} },
  rates: { gflops: 100, shapes: [] } as never,
  ...{ floorSeconds: 1, ofRate: 0.5, ofRateByProcessor: 0.49 },
};

test('processor times step by step, and the least, of our side alone', () => {
  const text = describeCase(alone);
  expect(text).toContain('processor times of our steps, s: 2.05 2.31 1.93; the least 1.93\n');
  expect(text).not.toContain('ratio');
});
