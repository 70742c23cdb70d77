import { createHash } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { writeAtomically } from '../state/atomic-file.js';

/** Different questions that are answered about one state of a data set, unless the site's policy says otherwise. */
export const DEFAULT_MAX_QUESTIONS = 8;

/** The name by which both sides are told of this rule. */
const RULE = 'max_questions_per_data_digest';

/** What somebody asks about the columns of a data set. */
export interface DescribeQuestion {
  readonly target: unknown;
  readonly missingMarkers?: Readonly<Record<string, readonly unknown[]>>;
  readonly exclude?: readonly string[];
  /** What a column is to be taken for, cut to or measured from gets another answer. */
  readonly hints?: unknown;
  /** Likewise what pictures are resized to. */
  readonly imageShape?: unknown;
}

interface Asked {
  /** By question; null while the answer is being made. */
  readonly answers: Record<string, string | null>;
  /** Hash of the target of each question in `answers`. */
  readonly targets: Record<string, string>;
  /** Questions that work on the rows asked: their metrics and updates answer them too. */
  readonly worked: string[];
}

/**
 * Remembers, over restarts, what was told about each state of each data set.
 *
 * Aggregates about ten rows and more are harmless one by one, but `age>50` and `age>51` differ by the rows of one
 * patient. So a question gets one answer for as long as the data stays the same, and there are few questions.
 */
export class QuestionLog {
  readonly #folder: string;
  readonly #maxQuestions: number;
  #inTurn: Promise<unknown> = Promise.resolve();

  constructor(folder: string, maxQuestions: number) {
    this.#folder = folder;
    this.#maxQuestions = maxQuestions;
  }

  /**
   * Answers a question as it was answered before, or by `ask`. It counts before it is answered, and no longer when
   * `ask` fails.
   *
   * @param digest of the data set as it is now
   * @throws OctomilError `policy_denied` naming the rule when too many others were answered; what `ask` throws
   */
  async answer(
    dataSet: string,
    digest: string,
    question: DescribeQuestion,
    ask: () => Promise<string>,
  ): Promise<string> {
    const hash = hashQuestion(question);
    const known = await this.#change(dataSet, digest, (asked) => {
      const before = asked.answers[hash];
      if (before === undefined) {
        this.#requireRoom(dataSet, asked);
        asked.answers[hash] = null;
        asked.targets[hash] = hashTarget(question.target);
      }
      return before ?? null;
    });
    if (known !== null) return known;
    let answer: string;
    try {
      answer = await ask();
    } catch (error) {
      await this.#change(dataSet, digest, (asked) => {
        if (asked.answers[hash] !== null) return;
        delete asked.answers[hash];
        delete asked.targets[hash];
      }).catch(() => undefined);
      throw error;
    }
    // The first answer stands, also where the same question was asked twice at once.
    return this.#change(dataSet, digest, (asked) => {
      const first = asked.answers[hash] ?? answer;
      asked.answers[hash] = first;
      return first;
    });
  }

  /**
   * Counts the question that a training or an evaluation asks by its target and markers. Free where the target was
   * described, whatever the markers: the agreed ones are derived from the answers, so they are seldom those asked with.
   *
   * @param digest of the data set as it is now
   * @throws OctomilError `policy_denied` naming the rule when too many others were answered
   */
  async count(dataSet: string, digest: string, question: DescribeQuestion): Promise<void> {
    const hash = hashQuestion(question);
    const target = hashTarget(question.target);
    await this.#change(dataSet, digest, (asked) => {
      if (Object.values(asked.targets).includes(target) || asked.worked.includes(hash)) return;
      this.#requireRoom(dataSet, asked);
      asked.worked.push(hash);
    });
  }

  #requireRoom(dataSet: string, { answers, worked }: Asked): void {
    const others = Object.keys(answers).length + worked.length;
    if (others < this.#maxQuestions) return;
    throw new OctomilError(
      'policy_denied',
      `rule ${RULE}: ${others} different questions about the columns of data set "${dataSet}" were answered and this site allows ${this.#maxQuestions} ` +
        "while its data stays as it is; ask one of them again, or have the site's owner raise max_questions in the agent's policy",
      { details: { rule: RULE, limit: this.#maxQuestions, dataSet } },
    );
  }

  /** One change at a time; what `change` did is on disk before this resolves. */
  #change<T>(dataSet: string, digest: string, change: (asked: Asked) => T): Promise<T> {
    const result = this.#inTurn.then(async () => {
      const path = join(this.#folder, `${sha256Of(JSON.stringify([dataSet, digest]))}.json`);
      const before = await readFile(path, 'utf8').catch((error: unknown) => {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '{"answers":{},"targets":{},"worked":[]}';
        throw error;
      });
      const asked = parse(before, path);
      const value = change(asked);
      const after = JSON.stringify(asked);
      if (after !== before) {
        await mkdir(this.#folder, { recursive: true, mode: 0o700 });
        await writeAtomically(path, after, { durable: true });
      }
      return value;
    });
    this.#inTurn = result.catch(() => undefined);
    return result;
  }
}

/** A damaged record must not become an empty one: that would allow everything again. */
function parse(text: string, path: string): Asked {
  try {
    const asked = JSON.parse(text) as Partial<Asked>;
    const { answers, targets = {}, worked = [] } = asked;
    if (typeof answers === 'object' && answers !== null) {
      return { answers: { ...answers }, targets: { ...targets }, worked: [...worked] };
    }
  } catch {}
  throw new OctomilError(
    'policy_denied',
    "the record of questions that this site answered is damaged, so none is answered; the site's owner can remove it",
    { details: { rule: RULE }, cause: new TypeError(`${path} is not a record of questions`) },
  );
}

/** Two ways to write the same question are one question. */
function hashQuestion({ target, missingMarkers, exclude, hints, imageShape }: DescribeQuestion): string {
  const fold = (name: string): string => name.trim().toLowerCase();
  const markers = Object.entries(missingMarkers ?? {})
    .filter(([, values]) => values.length > 0)
    .map(([name, values]) => [fold(name), [...new Set(values.map((value) => JSON.stringify(value)))].sort()] as const)
    .sort(([a], [b]) => (a < b ? -1 : 1));
  const left = [...new Set((exclude ?? []).map(fold))].sort();
  const more = {
    ...(hints == null ? {} : { hints: canonical(hints) }),
    ...(imageShape == null ? {} : { imageShape: canonical(imageShape) }),
  };
  return sha256Of(JSON.stringify({ version: 1, target: sorted(target), markers, exclude: left, ...more }));
}

/** The same for every order of fields. */
function canonical(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) return (value as unknown[]).map(canonical);
  return Object.entries(value)
    .map(([name, field]) => [name, canonical(field)] as const)
    .sort(([a], [b]) => (a < b ? -1 : 1));
}

function hashTarget(target: unknown): string {
  return sha256Of(JSON.stringify(sorted(target)));
}

function sorted(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  return Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
}

function sha256Of(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
