/** No curriculum. */

import { TASKS } from '../tasks.js';
import type { Curriculum, CurriculumState } from './curriculum.js';

/** No curriculum: every task is as likely as the others, from the first step to the last. */
export class UniformCurriculum implements Curriculum {
  readonly name = 'uniform';

  weights(): number[] {
    return TASKS.map(() => 1);
  }

  observe(): void {}

  state(): CurriculumState {
    return {};
  }

  restore(): void {}
}
