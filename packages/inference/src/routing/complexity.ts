import type { Query } from './messages.js';

/** One reason for a score: how strongly the query shows a feature, and what that adds to the score. */
export interface Contribution {
  readonly feature: string;
  /** 0 to 1. */
  readonly strength: number;
  /** What the score would lose without it. */
  readonly share: number;
}

export interface Complexity {
  /** 0 (trivial) to 1 (needs the best model there is). */
  readonly score: number;
  /** Strongest first. */
  readonly contributions: readonly Contribution[];
  /** Rules that bounded the score, in words. */
  readonly rules: readonly string[];
}

/** Beyond this a text is long, whatever else it holds. */
export const SCANNED_CHARACTERS = 8_192;

interface Feature {
  readonly name: string;
  readonly weight: number;
  readonly strength: (text: string, query: Query) => number;
}

/** How many of the patterns occur, in halves: one says something, two settle it. */
function hits(patterns: readonly RegExp[], full = 2): (text: string) => number {
  return (text) => Math.min(1, patterns.filter((pattern) => pattern.test(text)).length / full);
}

const CODE_WORK =
  /\b(?:write|implement|create|build|develop|refactor|debug|fix|optimi[sz]e|design|port|generate)\b[^.?!]{0,60}\b(?:api|function|class|script|code|program|algorithm|parser|compiler|component|server|service|query|regex|schema|module|library|endpoint|app|application|database|test suite|unit tests?|pipeline)\b/i;
const LANGUAGES =
  /\b(?:python|typescript|javascript|java|kotlin|rust|golang|c\+\+|c#|ruby|haskell|scala|swift|sql|bash|react|django|kubernetes|docker|terraform)\b/i;
const CODE_MARKS = /```|[{};]\s*\n|\bdef \w+\(|\bfunction \w+\(|=>|\bimport \w+|#include|<\/\w+>|\bSELECT\b.+\bFROM\b/;

const FEATURES: readonly Feature[] = [
  {
    name: 'length',
    weight: 0.45,
    strength: (text) => Math.min(1, Math.max(0, words(text) - 25) / 200),
  },
  {
    name: 'code',
    weight: 0.62,
    strength: (text) => Math.min(1, (CODE_WORK.test(text) ? 1 : 0) + hits([LANGUAGES, CODE_MARKS], 3)(text)),
  },
  {
    name: 'reasoning',
    weight: 0.66,
    strength: hits([
      /\b(?:why|how (?:does|do(?! you spell)|did|would|could|can|should))\b/i,
      /\b(?:analy[sz]e|evaluate|assess|critique|justify|argue|infer|deduce|diagnose)\b/i,
      /\b(?:compare|contrast|trade-?offs?|pros and cons|advantages and disadvantages|versus|vs\.?)\b/i,
      /\b(?:implications?|consequences?|root cause|counter-?examples?|assumptions?|edge cases?)\b/i,
      /\b(?:step[- ]by[- ]step|reasoning|think through|in depth|in detail|rigorous(?:ly)?|thorough(?:ly)?)\b/i,
    ]),
  },
  {
    name: 'mathematics',
    weight: 0.66,
    strength: hits([
      /\b(?:prove|proof|derive|derivation|theorem|lemma|induction|q\.e\.d)\b/i,
      /\b(?:integral|derivative|differential equations?|eigen\w+|gradient|matrix|matrices|convex|bayes\w*|probability|asymptotic)\b/i,
      /[∑∫∂∇√≤≥∀∃]|\\frac|\\sum|\bO\(n/,
    ]),
  },
  {
    name: 'creation',
    weight: 0.55,
    strength: hits([
      /\b(?:write|draft|compose|create|prepare|produce)\b[^.?!]{0,50}\b(?:essay|article|report|blog|story|novel|chapter|speech|proposal|plan|paper|review|guide|tutorial|poem|policy|specification|memo|letter|documentation)\b/i,
      /\b(?:comprehensive|detailed|complete|full|in-depth|extensive|\d{3,}[- ]words?)\b/i,
    ]),
  },
  {
    name: 'design',
    weight: 0.64,
    strength: hits([
      /\b(?:architect(?:ure)?|design|migrat(?:e|ion)|strategy|roadmap|scal(?:e|able|ing)|distributed|fault[- ]toleran\w+|concurren\w+|microservices?|consensus|zero[- ]downtime)\b/i,
      /\b(?:system|platform|infrastructure|workflow|protocol|framework)\b/i,
      /\b(?:requirements?|constraints?|guarantees?|throughput|latency|consistency|security|threat model)\b/i,
    ]),
  },
  {
    name: 'steps',
    weight: 0.45,
    strength: hits([
      /\b(?:first|second|third)\b[\s\S]{0,300}\b(?:then|next|after that|finally)\b/i,
      /(?:^|\n)\s*(?:\d+[.)]|[-*•])\s+\S[\s\S]*\n\s*(?:\d+[.)]|[-*•])\s+\S/,
      /\b(?:and then|after that|afterwards|as well as|additionally|also)\b/i,
    ]),
  },
  {
    name: 'constraints',
    weight: 0.35,
    strength: hits([
      /\b(?:must|should|ensure|without|only|exactly|at least|at most|no more than|avoid|do not|don't|handles?)\b/i,
      /\b(?:json|table|csv|markdown|format|schema|bullet points?|paragraphs?)\b/i,
      /\b(?:include|including|with examples?|citations?|references?|error handling|types?)\b/i,
    ]),
  },
  {
    name: 'explanation',
    weight: 0.42,
    strength: hits(
      [/\b(?:explain|describe|summari[sz]e|outline|discuss|elaborate|teach|translate|rewrite|classify|extract)\b/i],
      1,
    ),
  },
  {
    name: 'context',
    weight: 0.3,
    strength: (_text, { system, userTurns }) =>
      Math.min(1, words(system.slice(0, SCANNED_CHARACTERS)) / 300 + Math.max(0, userTurns - 2) / 10),
  },
];

const GREETING =
  /^(?:hi|hello|hey|yo|good (?:morning|afternoon|evening|night)|thanks?(?: you)?|thank you(?: very much| so much)?|ok(?:ay)?|yes|no|bye|goodbye|cheers|great|cool|how are you(?: today| doing)?|what'?s up|nice to meet you)(?:[ ,]+(?:there|again|everyone|friend))?[\s!.?]*$/i;
const SHORT_FACT =
  /^(?:what(?:'s| is| are| was| were)|what (?:\w+ ){1,3}(?:is|are|was|were|comes)|what does \S+ (?:stand for|mean)|who(?:'s| is| are| was| were| wrote| invented| discovered| painted)|when(?:'s| is| was| did| were)|where(?:'s| is| are| was)|which|how (?:many|much|old|tall|far|big|long|do you spell)|is|are|does|did|define|name|spell|capital of)\b/i;
/** Short and yet no fact: these ask for a view. */
const OPEN_ENDED =
  /\b(?:why|best way|should i|difference|better|meaning of life|explain|compare|how (?:do(?! you spell)|does|would|can|could|should))\b/i;

/** At or under this, the fast tier may answer by the default thresholds. */
const TRIVIAL_SCORE = 0.1;
/** Not trivial on evidence: at least the balanced tier by the default thresholds. */
const BALANCED_FLOOR = 0.35;
/** The quality tier by the default thresholds. */
const DEMANDING_FLOOR = 0.72;
/** Asked for at the start of a sentence, these are work in which much can be wrong. */
const DEMANDING_WORK =
  /(?:^|[.!?:]\s+)(?:please\s+)?(?:prove|derive|implement|design|architect|refactor|debug|optimi[sz]e)\b/i;
const EXTENSIVE_WORK =
  /\b(?:write|draft|create|prepare|produce|build)\b[^.?!]{0,20}\b(?:comprehensive|detailed|complete|full|in-depth|extensive|\d{3,}[- ]words?)\b/i;

/**
 * Scores how much a query asks of a model, offline and in one pass over at most 8 KiB of it.
 *
 * Features combine by noisy-or, `1 − ∏(1 − weight × strength)` (Pearl, "Probabilistic Reasoning in Intelligent
 * Systems", 1988, §4.3): several weak signs add up, one strong sign is enough. A query counts as trivial only on
 * positive evidence (a greeting, a short question of fact); everything else is at least middling, because a small model
 * on a hard question costs more than a large one on an easy question.
 */
export function scoreComplexity(query: Query): Complexity {
  const text = query.text.slice(0, SCANNED_CHARACTERS);
  const strengths = FEATURES.map(({ name, weight, strength }) => {
    const value = strength(text, query);
    return { feature: name, strength: value, effect: weight * value };
  }).filter(({ strength }) => strength > 0);
  const remaining = strengths.reduce((product, { effect }) => product * (1 - effect), 1);
  const raw = 1 - remaining;
  const contributions = strengths
    .map(({ feature, strength, effect }) => ({ feature, strength, share: (remaining / (1 - effect)) * effect }))
    .sort((a, b) => b.share - a.share);
  const { score, rules } = bounded(text.trim(), raw, contributions);
  return { score: Math.round(score * 10_000) / 10_000, contributions, rules };
}

function bounded(
  text: string,
  raw: number,
  contributions: readonly Contribution[],
): { score: number; rules: string[] } {
  if (GREETING.test(text)) return { score: 0, rules: ['a greeting is trivial'] };
  const count = words(text);
  const demanding = count >= 4 && isDemanding(text, contributions);
  if (text !== '' && count <= 12 && !demanding && SHORT_FACT.test(text) && !OPEN_ENDED.test(text) && raw < 0.45) {
    return { score: Math.min(raw, TRIVIAL_SCORE), rules: ['a short question of fact is trivial'] };
  }
  const rules: string[] = [];
  let score = raw;
  if (demanding && score < DEMANDING_FLOOR) {
    score = DEMANDING_FLOOR;
    rules.push('a demanding kind of work is asked for');
  }
  if (score < BALANCED_FLOOR) {
    score = BALANCED_FLOOR;
    rules.push('not shown to be trivial');
  }
  return { score, rules };
}

const HEAVY: ReadonlySet<string> = new Set(['code', 'mathematics', 'design', 'reasoning', 'creation']);

/** Work whose result is long or can be wrong in many places. */
function isDemanding(text: string, contributions: readonly Contribution[]): boolean {
  const shown = new Set(contributions.filter(({ strength }) => strength >= 0.5).map(({ feature }) => feature));
  if (CODE_WORK.test(text) || DEMANDING_WORK.test(text) || EXTENSIVE_WORK.test(text)) return true;
  return [...shown].filter((feature) => HEAVY.has(feature)).length >= 2;
}

function words(text: string): number {
  return text.match(/\S+/g)?.length ?? 0;
}
