/** The curricula that settings and the command line know by name. */

import { requireFunction } from '../../arguments.js';
import { DuetError, shown } from '../../errors.js';
import { AdaptiveCurriculum } from './adaptive.js';
import type { Curriculum } from './curriculum.js';
import { DifficultyAdaptiveCurriculum } from './difficulty-adaptive.js';
import { StaticCurriculum } from './static.js';
import { UniformCurriculum } from './uniform.js';

const CURRICULA = {
  uniform: () => new UniformCurriculum(),
  static: (steps: number) => new StaticCurriculum(steps),
  adaptive: () => new AdaptiveCurriculum(),
  'difficulty-adaptive': (steps: number) => new DifficultyAdaptiveCurriculum(steps),
} as const satisfies Record<CurriculumName, (steps: number) => Curriculum>;

/** Name of a curriculum. */
export type CurriculumName = 'uniform' | 'static' | 'adaptive' | 'difficulty-adaptive';
/** All curricula that settings know by name. */
export const CURRICULUM_NAMES = Object.keys(CURRICULA) as CurriculumName[];

/**
 * A curriculum by its name, or the given one as it is.
 * @param steps optimiser steps of the run
 * @throws DuetError INVALID_ARGUMENT for an unknown name
 */
export function curriculumOf(wanted: CurriculumName | Curriculum, steps: number): Curriculum {
  if (typeof wanted === 'object' && wanted !== null) {
    for (const call of ['weights', 'observe', 'state', 'restore'] as const)
      requireFunction(wanted[call], `${call} of the curriculum`);
    return wanted;
  }
  const make: ((steps: number) => Curriculum) | undefined = Object.hasOwn(CURRICULA, wanted)
    ? CURRICULA[wanted]
    : undefined;
  if (make) return make(steps);
  throw new DuetError(
    'INVALID_ARGUMENT',
    `Expected one of ${CURRICULUM_NAMES.join(', ')} or an object for the curriculum but received ${shown(wanted)}`,
  );
}
