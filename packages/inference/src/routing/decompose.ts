/** One task of a query that holds several. */
export interface SubTask {
  readonly text: string;
  /** Index of the task whose answer this one needs; undefined when it stands alone. */
  readonly dependsOn: number | undefined;
}

const VERBS =
  'write|create|make|build|implement|explain|describe|summari[sz]e|translate|list|compare|find|calculate|compute|convert|draft|generate|suggest|recommend|give|tell|show|design|fix|refactor|analy[sz]e|classify|extract|rewrite|plan|define|outline|review|format|prove';
const IMPERATIVE = new RegExp(String.raw`^(?:please\s+)?(?:${VERBS})\b`, 'i');
/** Only before a verb in the imperative: "rock and roll history" stays whole. */
const CONNECTOR = new RegExp(
  String.raw`\s*(?:[,;]\s*)?\b(?:and also|and then|then|and|plus|additionally|as well as|after that|finally)\b,?\s+(?=(?:please\s+)?(?:${VERBS})\b)|\s*[;,]\s+(?=(?:please\s+)?(?:${VERBS})\b)|(?<=[.?!])\s+(?=(?:(?:then|next|finally|also),?\s+)?(?:please\s+)?(?:${VERBS})\b)`,
  'gi',
);
const NUMBERED = /(?:^|\n)\s*(?:\d+[.)]|[-*•])\s+(?=\S)/;
const LEADING = /^(?:first(?:ly)?|second(?:ly)?|third(?:ly)?|then|next|finally|also|after that|and)\b,?\s+/i;
const NEEDS_EARLIER =
  /\b(?:translate|summari[sz]e|format|rewrite|convert|explain|review|test)\s+(?:it|that|this|them|the (?:result|answer|output))\b|\bthe (?:summary|translation|output|result|answer)\b/i;
const FEWEST_WORDS = 2;
const MOST_TASKS = 8;
const MAX_CHARACTERS = 8_192;

/**
 * Splits a query into the tasks it asks for: a numbered list, or imperatives joined by connectors. A query that is one
 * task, or that cannot be split surely, is answered whole.
 */
export function decompose(text: string): readonly SubTask[] {
  const whole: readonly SubTask[] = [{ text: text.trim(), dependsOn: undefined }];
  // Code is not prose: its semicolons join no tasks.
  if (text.length > MAX_CHARACTERS || text.includes('```')) return whole;
  const listed = fromList(text);
  const parts = (listed ?? text.trim().split(CONNECTOR)).map((part) => part.trim()).filter((part) => part !== '');
  if (parts.length < 2 || parts.length > MOST_TASKS) return whole;
  const tasks = parts.map((part) => part.replace(LEADING, '').replace(/[,;]$/, ''));
  const sure = tasks.every(
    (task) => task.split(/\s+/).length >= FEWEST_WORDS && (listed !== undefined || IMPERATIVE.test(task)),
  );
  if (!sure) return whole;
  return tasks.map((task, index) => ({
    text: task,
    dependsOn: index > 0 && NEEDS_EARLIER.test(task) ? index - 1 : undefined,
  }));
}

function fromList(text: string): readonly string[] | undefined {
  const [, ...items] = `\n${text}`.split(NUMBERED);
  return items.length >= 2 ? items : undefined;
}
