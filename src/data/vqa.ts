/** Questions about pictures in the JSON format of VQA v2. */

import {
  requireFunction,
  requireInstance,
  requireIterable,
  requireList,
  requireObject,
  requireText,
} from '../arguments.js';
import { DuetError, shown, throwIfAborted } from '../errors.js';
import { normaliseAnswer } from './answer-text.js';
import { type AnswerCount, AnswerVocabulary, countAnswers } from './answers.js';
import { forEachAtOnce } from './concurrency.js';
import { readJson } from './files.js';
import { ImageProcessor } from './image-processor.js';
import { findPictures, type PictureSource } from './picture-index.js';
import { PictureError } from './pictures.js';
import { type DatasetCounts, SkipReport } from './report.js';

/** One question about one picture. */
export interface VqaSample {
  /** Unique in a data set. */
  questionId: number;
  /** Of the picture. */
  imageId: number;
  /** As it was asked. */
  question: string;
  /** Path of the picture file. */
  picture: string;
  /** `multiple_choice_answer` in its normal form: what most people answered. */
  answer: string;
  /** The answers people gave, normalised, most frequent first. */
  counts: readonly AnswerCount[];
  /** As in the files, e.g. `what color`; empty where there is none. */
  questionType: string;
  /** As in the files, e.g. `yes/no`; empty where there is none. */
  answerType: string;
}

/** Where a data set lies. */
export interface VqaFiles {
  /** Path of the questions file. */
  questions: string;
  /** Path of the annotations file. */
  annotations: string;
  /** Folder of the pictures, or a function from image_id to path. */
  pictures: PictureSource;
  /** For messages. Default: the path of the questions. */
  name?: string;
}

/**
 * A list of samples that can be cut into parts, with the counts of what had to be left out.
 *
 * Two files in the format of VQA v2 make one: `{"questions": [{question_id, image_id, question}]}` and
 * `{"annotations": [{question_id, answers: [{answer}], multiple_choice_answer}]}` (`question_type` and `answer_type`
 * are kept when there), plus the pictures. Bad single entries are skipped and counted (`report`); a set without one
 * usable question is an error.
 */
export class VqaDataset {
  /** For messages and reports. */
  readonly name: string;
  /** In the order of the files. */
  readonly samples: readonly VqaSample[];
  /** Questions of this set that are left out; pictures found bad later are noted here, too. */
  readonly skipped: SkipReport;
  /** Of a part: entries of the files without an id of their own, which belong to no part (see `subset`). */
  readonly unassigned: SkipReport;

  /** @throws DuetError INVALID_ARGUMENT when there is no sample; the message says what was skipped */
  constructor(
    name: string,
    samples: readonly VqaSample[],
    skipped = new SkipReport(),
    unassigned = new SkipReport(),
  ) {
    this.name = requireText(name, 'name');
    this.samples = requireList(samples, 'samples', requireObject);
    this.skipped = skipped;
    this.unassigned = unassigned;
    if (samples.length === 0) {
      const why = skipped.size > 0 ? `: ${skipped}; for example ${skipped.examples[0]}` : '';
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected at least 1 usable question in ${name} but found 0${why}`,
      );
    }
  }

  /**
   * Reads a data set. Pictures are looked up, not yet decoded (see `withSoundPictures`).
   * @throws DuetError NOT_FOUND or IO for a file that cannot be read, CORRUPT for one that is not of the
   *   format, INVALID_ARGUMENT when no usable question is left
   */
  static async load(files: VqaFiles): Promise<VqaDataset> {
    const { questions: path, pictures, name = path } = requireObject(files, 'files');
    for (const [field, one] of Object.entries({ path, annotations: files.annotations, name }))
      requireText(one, field);
    if (typeof pictures !== 'function') requireText(pictures, 'pictures');
    const [questions, annotations] = await Promise.all([
      readEntries(path, 'questions'),
      readEntries(files.annotations, 'annotations'),
    ]);
    // Of two entries with one id the first counts, in both files.
    const annotationOf = new Map(
      annotations
        .filter(isEntry)
        .map((entry) => [entry.question_id, entry] as const)
        .reverse(),
    );
    const imageIds = questions.map((question) => (question as Entry | null)?.image_id).filter(isId);
    const pictureOf = await findPictures(pictures, imageIds);
    const skipped = new SkipReport();
    for (const [index, entry] of annotations.entries()) {
      if (isEntry(entry)) continue;
      const message = `entry ${index} of ${files.annotations} is ${shown(entry)}`;
      skipped.note(`annotation ${index} of ${name}`, 'malformed annotation', message);
    }
    const samples: VqaSample[] = [];
    const seen = new Set<number>();
    for (const [index, entry] of questions.entries()) {
      const malformed = (key: number | string, what: string) =>
        skipped.note(key, 'malformed question', `entry ${index} of ${path} ${what}`);
      if (!isEntry(entry)) {
        malformed(`entry ${index} of ${name}`, `is ${shown(entry)}`);
        continue;
      }
      const { question_id: questionId, image_id: imageId, question } = entry;
      if (!isId(questionId)) {
        malformed(`entry ${index} of ${name}`, 'has no id');
        continue;
      }
      if (seen.has(questionId)) {
        malformed(`entry ${index} of ${name}`, `has the id of an earlier question, ${questionId}`);
        continue;
      }
      seen.add(questionId);
      if (typeof question !== 'string' || question.trim() === '') {
        malformed(questionId, 'has no text');
        continue;
      }
      const picture = isId(imageId) ? pictureOf.get(imageId) : undefined;
      const annotation = annotationOf.get(questionId);
      const damage = annotation === undefined ? undefined : damageOf(annotation);
      const answers = annotation === undefined || damage ? undefined : answersOf(annotation);
      if (!isId(imageId) || picture === undefined) {
        const what = isId(imageId) ? `image_id ${imageId} has no picture file` : 'it names no picture';
        skipped.note(questionId, 'missing picture', `question ${questionId}: ${what}`);
      } else if (damage !== undefined) {
        skipped.note(questionId, 'no annotation', `question ${questionId}: ${damage}`);
      } else if (annotation === undefined || answers === undefined) {
        const what = annotation === undefined ? 'it has no annotation' : 'its annotation has no answer';
        skipped.note(questionId, 'no annotation', `question ${questionId}: ${what}`);
      } else {
        const questionType = textOf(entry.question_type) || textOf(annotation.question_type);
        const answerType = textOf(annotation.answer_type);
        samples.push({ questionId, imageId, question, picture, ...answers, questionType, answerType });
      }
    }
    return new VqaDataset(name, samples, skipped);
  }

  /**
   * Several data sets as one.
   * @throws DuetError INVALID_ARGUMENT for a question id in two of them
   */
  static merge(name: string, datasets: readonly VqaDataset[]): VqaDataset {
    const [skipped, unassigned] = [new SkipReport(), new SkipReport()];
    for (const dataset of requireList(datasets, 'datasets')) {
      requireInstance(dataset, VqaDataset, 'a data set');
      skipped.include(dataset.skipped);
      unassigned.include(dataset.unassigned);
    }
    const samples = datasets.flatMap((dataset) => dataset.samples);
    const merged = new VqaDataset(name, samples, skipped, unassigned);
    const ids = new Set(merged.samples.map((sample) => sample.questionId));
    if (ids.size !== merged.samples.length) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected every question_id once in ${name} but ${merged.samples.length - ids.size} are in two of its parts`,
      );
    }
    return merged;
  }

  /** Number of samples. */
  get size(): number {
    return this.samples.length;
  }

  /** Counts of what is used and what was skipped. */
  get report(): DatasetCounts {
    const kept = this.samples.filter((sample) => !this.skipped.has(sample.questionId)).length;
    const counts = this.skipped.asCounts(this.name);
    return { ...counts, questions: kept + counts.questions, kept };
  }

  /**
   * The samples with these ids, in the order of the list. Ids that were skipped before stay counted under
   * their reason, ids that were never there are counted as `unknown question` (unless `ignoreUnknown`). Entries
   * without an id of their own are in the `unassigned` of every part.
   */
  subset(
    questionIds: Iterable<number>,
    name = this.name,
    options: { ignoreUnknown?: boolean } = {},
  ): VqaDataset {
    const sampleOf = new Map(this.samples.map((sample) => [sample.questionId, sample]));
    const wanted = new Set(requireIterable(questionIds, 'questionIds'));
    requireObject(options, 'options');
    const skipped = new SkipReport();
    skipped.include(this.skipped, (question) => typeof question === 'number' && wanted.has(question));
    const unassigned = new SkipReport();
    unassigned.include(this.unassigned);
    unassigned.include(this.skipped, (question) => typeof question === 'string');
    const samples: VqaSample[] = [];
    for (const questionId of wanted) {
      const sample = sampleOf.get(questionId);
      if (sample !== undefined) samples.push(sample);
      else if (!options.ignoreUnknown) {
        skipped.note(questionId, 'unknown question', `question ${questionId} is not in ${this.name}`);
      }
    }
    return new VqaDataset(name, samples, skipped, unassigned);
  }

  /** The samples for which `wanted` is true. */
  where(wanted: (sample: VqaSample) => boolean, name = this.name): VqaDataset {
    requireFunction(wanted, 'wanted');
    const skipped = new SkipReport();
    skipped.include(this.skipped);
    return new VqaDataset(name, this.samples.filter(wanted), skipped, this.unassigned);
  }

  /**
   * The samples a classifier over `answers` can learn from: those with at least one known answer. The others
   * are skipped and counted, as the published VQA code does. For evaluation keep them all: they count as
   * wrong.
   */
  forTraining(answers: AnswerVocabulary): VqaDataset {
    requireInstance(answers, AnswerVocabulary, 'answers');
    const skipped = new SkipReport();
    skipped.include(this.skipped);
    const samples = this.samples.filter((sample) => {
      const known = answers.targetsOf(sample).length > 0;
      if (!known) {
        const message = `question ${sample.questionId}: '${sample.answer}' is not one of the ${answers.size} answers`;
        skipped.note(sample.questionId, 'no known answer', message);
      }
      return known;
    });
    return new VqaDataset(this.name, samples, skipped, this.unassigned);
  }

  /** How many samples have no answer in the vocabulary; an evaluation counts them as wrong. */
  countUnanswerable(answers: AnswerVocabulary): number {
    requireInstance(answers, AnswerVocabulary, 'answers');
    return this.samples.filter((sample) => answers.targetsOf(sample).length === 0).length;
  }

  /**
   * Decodes every picture once (filling the processor's cache) and leaves out the questions of bad ones.
   * @throws DuetError CANCELLED when the signal is aborted, INVALID_ARGUMENT when nothing is left
   */
  async withSoundPictures(
    images: ImageProcessor,
    options: { signal?: AbortSignal } = {},
  ): Promise<VqaDataset> {
    requireInstance(images, ImageProcessor, 'images');
    const { signal } = requireObject(options, 'options');
    const problems = new Map<string, PictureError>();
    await forEachAtOnce(new Set(this.samples.map((sample) => sample.picture)), 4, async (path) => {
      throwIfAborted(signal, `Checking the pictures of ${this.name}`);
      try {
        await images.resized(path);
      } catch (error) {
        if (!(error instanceof PictureError)) throw error;
        problems.set(path, error);
      }
    });
    const skipped = new SkipReport();
    skipped.include(this.skipped);
    const samples = this.samples.filter((sample) => {
      const problem = problems.get(sample.picture);
      if (problem !== undefined) noteBadPicture(skipped, sample, problem);
      return problem === undefined;
    });
    return new VqaDataset(this.name, samples, skipped, this.unassigned);
  }
}

/** Counts a sample whose picture could not be used. */
export function noteBadPicture(skipped: SkipReport, sample: VqaSample, problem: PictureError): void {
  const reason = problem.code === 'NOT_FOUND' ? 'missing picture' : 'corrupt picture';
  skipped.note(sample.questionId, reason, `question ${sample.questionId}: ${problem.message}`);
}

interface Entry {
  [field: string]: unknown;
}

function isEntry(value: unknown): value is Entry {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

async function readEntries(path: string, field: 'questions' | 'annotations'): Promise<unknown[]> {
  const json = await readJson(path, field);
  const list = (json as Entry | null)?.[field];
  if (!Array.isArray(list)) {
    throw new DuetError('CORRUPT', `Expected {"${field}": [{...}, ...]} as in VQA v2 in ${path}`);
  }
  return list;
}

function isId(value: unknown): value is number {
  return Number.isSafeInteger(value);
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

/** What is wrong with the list of answers of an annotation that has one. */
function damageOf({ answers }: Entry): string | undefined {
  if (answers === undefined || answers === null) return undefined;
  if (!Array.isArray(answers)) return `Expected a list for answers but received ${shown(answers)}`;
  const bad = answers.findIndex((entry) => !isEntry(entry) || typeof entry.answer !== 'string');
  return bad < 0
    ? undefined
    : `Expected {"answer": text} for answers[${bad}] but received ${shown(answers[bad])}`;
}

/**
 * The answers of an annotation; one `multiple_choice_answer` without a list counts as given by all ten
 * people.
 */
function answersOf(annotation: Entry): Pick<VqaSample, 'answer' | 'counts'> | undefined {
  const list = (annotation.answers ?? []) as { answer: string }[];
  const given = list.map(({ answer }) => answer).filter((answer) => answer !== '');
  const most = textOf(annotation.multiple_choice_answer);
  const counts = given.length > 0 ? countAnswers(given) : countAnswers(Array<string>(10).fill(most));
  if (counts.length === 0) return undefined;
  return { answer: normaliseAnswer(most) || counts[0]!.answer, counts };
}
