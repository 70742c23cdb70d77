import { evaluateExpression, exact, formatNumber } from './expression.js';
import { convertUnits } from './units.js';

/** An answer that needs no model. */
export interface DeterministicResult {
  readonly answer: string;
  readonly method: 'arithmetic' | 'percentage' | 'unit_conversion';
  /** Always 1: what is not certain is not answered here. */
  readonly confidence: number;
}

const MAX_CHARACTERS = 200;
const QUESTION = /^(?:what(?:'s|’s|s| is| are| does)|calculate|compute|evaluate|how much is|solve|find|convert)\s+/i;
const POLITE = /^(?:please\s+|(?:can|could) you\s+(?:please\s+)?)/i;
const ENDING = /\s*(?:=|equals?)?\s*(?:please)?\s*(?:[?.]|(?<!\d)!)*\s*$/i;
/** What looks like a sum and is none: dates, telephone numbers, versions, ranges. */
const NOT_A_SUM = [
  /\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}/,
  /(?:^|\D)\d{3}-\d{4}(?:\D|$)/,
  /^\+?\d[\d-]*(?:-\d{2,}){2,}$/,
  /^\d+\.\d+\.\d+/,
];
/** Without a question around it, `3-4` or `10/12` is as likely a range or a day. */
const BARE_RANGE = /^\d+\s*[-/–]\s*\d+$/;
const WORDS: readonly (readonly [RegExp, string])[] = [
  [/\bsquare root of\s+(\d+(?:\.\d+)?)/gi, 'sqrt($1)'],
  [/\b(?:divided by|over)\b/gi, '/'],
  [/\b(?:multiplied by|times)\b/gi, '*'],
  [/\bplus\b/gi, '+'],
  [/\bminus\b/gi, '-'],
  [/\b(?:to the power of|raised to)\b/gi, '^'],
  [/\bsquared\b/gi, '^2'],
  [/\bcubed\b/gi, '^3'],
  [/\bmodulo\b/gi, 'mod'],
  [/(?<=\d)\s*[x]\s*(?=\d)/gi, '*'],
];
const NUMBER = String.raw`(-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d*\.?\d+)`;
const PERCENT = new RegExp(String.raw`^${NUMBER}\s*(?:%|percent|per cent)\s+of\s+${NUMBER}$`, 'i');
const CONVERSION = new RegExp(
  String.raw`^${NUMBER}\s*([a-z°²/ ]+?[a-z0-9²]?)\s+(?:in|to|into|as)\s+([a-z°²/ ]+[a-z0-9²]?)$`,
  'i',
);
const HOW_MANY = new RegExp(
  String.raw`^how many\s+([a-z°²/ ]+?)\s+(?:are\s+)?(?:there\s+)?in\s+(?:an?\s+|${NUMBER}\s*)([a-z°²/ ]+)$`,
  'i',
);

/**
 * Answers arithmetic, percentages and unit conversions exactly, and only when the whole query is one: a wrong answer
 * given with confidence costs more than a model's call.
 *
 * ```ts
 * checkDeterministic('what is 2+2?'); // { answer: '4', method: 'arithmetic', confidence: 1 }
 * checkDeterministic('call 555-1234'); // null
 * ```
 */
export function checkDeterministic(query: string): DeterministicResult | null {
  if (query.length > MAX_CHARACTERS || !/\d|\bin an?\b/i.test(query)) return null;
  // Runs of spaces would be matched in every division among the patterns' own: seconds for 200 of them.
  const polite = query.trim().replaceAll(/\s+/g, ' ').replace(POLITE, '');
  const asked = polite.replace(QUESTION, '').replace(ENDING, '').trim();
  const isQuestion = asked.length < polite.length;
  return conversion(asked) ?? percentage(asked) ?? arithmetic(asked, isQuestion);
}

function conversion(text: string): DeterministicResult | null {
  const direct = CONVERSION.exec(text);
  const counted = HOW_MANY.exec(text);
  const [value, from, to] =
    direct === null
      ? counted === null
        ? []
        : [counted[2] ?? '1', counted[3], counted[1]]
      : [direct[1], direct[2], direct[3]];
  if (value === undefined || from === undefined || to === undefined) return null;
  const converted = convertUnits(exact(value), from, to);
  if (converted === undefined) return null;
  return { answer: `${formatNumber(converted.value)} ${converted.symbol}`, method: 'unit_conversion', confidence: 1 };
}

function percentage(text: string): DeterministicResult | null {
  const [, share, whole] = PERCENT.exec(text) ?? [];
  if (share === undefined || whole === undefined) return null;
  return { answer: formatNumber(exact(share).times(exact(whole)).div(100)), method: 'percentage', confidence: 1 };
}

function arithmetic(text: string, isQuestion: boolean): DeterministicResult | null {
  if (NOT_A_SUM.some((pattern) => pattern.test(text)) || (!isQuestion && BARE_RANGE.test(text))) return null;
  const expression = WORDS.reduce((current, [pattern, symbol]) => current.replace(pattern, ` ${symbol} `), text);
  // A number alone asks nothing; neither does a sign before it.
  if (/^[\s+-]*[\d.,]+$/.test(expression)) return null;
  const value = evaluateExpression(expression);
  return value === undefined ? null : { answer: formatNumber(value), method: 'arithmetic', confidence: 1 };
}
