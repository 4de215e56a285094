/**
 * Questions about a scene, with answers that are known because the scene is.
 *
 * Five types: `object` (what is it), `color`, `count`, `verify` (yes or no, each as often), and `direction`
 * for things that point. A mix says how often each type is asked; clients with different mixes have different
 * tasks and different answers.
 */

import type { Random } from '../random.js';
import { COLOR_NAMES } from './colors.js';
import type { Scene } from './scene.js';
import { SHAPES } from './shapes.js';

export const QUESTION_TYPES = ['object', 'color', 'count', 'verify', 'direction'] as const;
export type QuestionType = (typeof QUESTION_TYPES)[number];
/** Chances of the question types, in proportion. */
export type QuestionMix = Record<QuestionType, number>;

export interface AskedQuestion {
  type: QuestionType;
  answerType: 'other' | 'number' | 'yes/no';
  question: string;
  answer: string;
}

/** `{thing}` stands for the name in the right number, `{s}` for the verb ending, `{is}` for is or are. */
const WORDINGS: Record<Exclude<QuestionType, 'verify'>, readonly string[]> = {
  object: ['What is shown?', 'What do you see?', 'What is drawn here?', 'Which thing is in the picture?'],
  color: [
    'What color is it?',
    'What color {is} the {thing}?',
    'Which color do you see?',
    'What is the color of the {thing}?',
  ],
  count: [
    'How many {things} are there?',
    'How many things do you see?',
    'Count the {things}.',
    'How many {things} can you see?',
  ],
  direction: [
    'Which way {do} the {thing} point?',
    'Where {do} the {thing} point?',
    'In which direction {is} the {thing} pointing?',
  ],
};
const VERIFY_SHAPE = ['Is there a {other} in the picture?', 'Can you see a {other}?', 'Is this a {other}?'];
const VERIFY_COLOR = [
  'Is it {other}?',
  'Is something {other} in the picture?',
  'Can you see the color {other}?',
];

/** What is asked of yes/no questions next, so that yes and no come in pairs. */
export class YesNo {
  #asked = 0;
  #first = false;

  /** @returns whether the next answer is yes; of every two answers one is */
  next(random: Random): boolean {
    const second = this.#asked++ % 2 === 1;
    if (!second) this.#first = random.below(2) === 0;
    return second ? !this.#first : this.#first;
  }
}

/**
 * Asks `count` different questions about a scene.
 * @param mix chances of the types; `verify` stands for two questions (about the thing, about the color)
 * @param balance one for every set whose yes and no shall be equally many
 */
export function askQuestions(
  scene: Scene,
  mix: QuestionMix,
  count: number,
  balance: { shape: YesNo; color: YesNo },
  random: Random,
): AskedQuestion[] {
  const kinds: { weight: number; ask: () => AskedQuestion }[] = [
    { weight: mix.object, ask: () => ask('object', 'other', scene.shape.name) },
    { weight: mix.color, ask: () => ask('color', 'other', scene.color) },
    { weight: mix.count, ask: () => ask('count', 'number', String(scene.placements.length)) },
    {
      weight: mix.verify / 2,
      ask: () =>
        verify(
          VERIFY_SHAPE,
          SHAPES.map(({ name }) => name),
          scene.shape.name,
          balance.shape,
        ),
    },
    { weight: mix.verify / 2, ask: () => verify(VERIFY_COLOR, COLOR_NAMES, scene.color, balance.color) },
  ];
  const { direction } = scene;
  // Few scenes have a direction, so those that do are asked for it more often.
  if (direction !== undefined)
    kinds.push({ weight: mix.direction * 3, ask: () => ask('direction', 'other', direction) });

  function ask(
    type: Exclude<QuestionType, 'verify'>,
    answerType: 'other' | 'number',
    answer: string,
  ): AskedQuestion {
    return { type, answerType, question: worded(random.pick(WORDINGS[type]), scene), answer };
  }
  function verify(
    wordings: readonly string[],
    names: readonly string[],
    truth: string,
    yesNo: YesNo,
  ): AskedQuestion {
    const yes = yesNo.next(random);
    const other = yes ? truth : random.pick(names.filter((name) => name !== truth));
    const question = random.pick(wordings).replace('a {other}', withArticle(other)).replace('{other}', other);
    return { type: 'verify', answerType: 'yes/no', question, answer: yes ? 'yes' : 'no' };
  }

  const asked: AskedQuestion[] = [];
  while (asked.length < count && kinds.some(({ weight }) => weight > 0)) {
    const [chosen] = kinds.splice(random.weighted(kinds.map(({ weight }) => weight)), 1);
    asked.push(chosen!.ask());
  }
  return asked;
}

function worded(wording: string, { shape, placements }: Scene): string {
  const several = placements.length > 1;
  return wording
    .replace('{things}', shape.plural)
    .replace('{thing}', several ? shape.plural : shape.name)
    .replace('{is}', several ? 'are' : 'is')
    .replace('{do}', several ? 'do' : 'does');
}

function withArticle(name: string): string {
  return `${/^[aeiou]/.test(name) ? 'an' : 'a'} ${name}`;
}

/**
 * The mix of a client. Without heterogeneity everybody asks alike; with 1 a client asks only the two types
 * that are its own. Neighbouring clients share one of them.
 */
export function mixOf(client: number, heterogeneity: number): QuestionMix {
  const types = QUESTION_TYPES.length;
  const own = [QUESTION_TYPES[client % types]!, QUESTION_TYPES[(client + 1) % types]!];
  const weight = (type: QuestionType) => (own.includes(type) ? 1 : (1 - heterogeneity) ** 2);
  return Object.fromEntries(QUESTION_TYPES.map((type) => [type, weight(type)])) as QuestionMix;
}
