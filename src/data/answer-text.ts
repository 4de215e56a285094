/**
 * The normal form of an answer, as the VQA evaluation compares them: "A Dog." = "dog", "two" = "2", "dont" =
 * "don't".
 *
 * Follows the evaluation code of the VQA challenge (Antol et al., "VQA: Visual Question Answering", ICCV
 * 2015): line breaks to spaces, punctuation removed (or replaced by a space where it separates words), lower
 * case, number words to digits, articles dropped, apostrophes put back into contractions.
 */

const NUMBER_WORDS: Record<string, string> = Object.assign(Object.create(null), {
  none: '0',
  zero: '0',
  one: '1',
  two: '2',
  three: '3',
  four: '4',
  five: '5',
  six: '6',
  seven: '7',
  eight: '8',
  nine: '9',
  ten: '10',
});

const ARTICLES = new Set(['a', 'an', 'the']);

/**
 * Contractions whose apostrophe is often left out. Words that mean something without it (its, were, well,
 * ...) are not here.
 */
const CONTRACTIONS = new Map(
  (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's i'd've " +
    "i'm i've isn't it'd it'll let's ma'am might've mightn't must've mustn't needn't not've o'clock oughtn't shan't " +
    "she'd've should've shouldn't somebody'd someone'd something'd that'd that's there'd there're there's they'd they'll " +
    "they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd " +
    "who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've"
  )
    .split(' ')
    .map((word) => [word.replaceAll("'", ''), word]),
);

const PUNCTUATION = [...';/[]"{}()=+\\_-><@`,?!'];
/** A full stop that is not a decimal point (as published, only what follows it decides). */
const FULL_STOP = /\.(?!\d)/g;
/** A comma between digits ("1,000"). */
const DIGIT_COMMA = /\d,\d/;

/** The normal form of one answer; idempotent on answers that are normal already. */
export function normaliseAnswer(answer: string): string {
  let text = answer.replace(/[\n\t]/g, ' ').trim();
  const commaInNumber = DIGIT_COMMA.test(text);
  // As published: a mark next to a space anywhere in the answer vanishes everywhere in it, otherwise it becomes a space.
  const original = text;
  for (const mark of PUNCTUATION) {
    const vanishes = original.includes(`${mark} `) || original.includes(` ${mark}`) || commaInNumber;
    text = text.replaceAll(mark, vanishes ? '' : ' ');
  }
  text = text.replace(FULL_STOP, '');
  return text
    .toLowerCase()
    .split(/\s+/)
    .map((word) => NUMBER_WORDS[word] ?? word)
    .filter((word) => word !== '' && !ARTICLES.has(word))
    .map((word) => CONTRACTIONS.get(word) ?? word)
    .join(' ');
}
