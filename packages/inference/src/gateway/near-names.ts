const MAX_NAMES = 3;
const MAX_CHARACTERS = 200;

/** The names most like `name`, best first: the same without its tag or case, then those a few letters away. */
export function nearNames(name: string, known: readonly string[]): string[] {
  const wanted = plain(name.slice(0, MAX_CHARACTERS));
  return known
    .map((candidate) => ({ candidate, distance: distanceTo(wanted, plain(candidate.slice(0, MAX_CHARACTERS))) }))
    .filter(({ distance }) => distance <= 0.5)
    .sort((a, b) => a.distance - b.distance || a.candidate.localeCompare(b.candidate))
    .slice(0, MAX_NAMES)
    .map(({ candidate }) => candidate);
}

function plain(name: string): string {
  return name.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, '');
}

/** 0: the same; 1: nothing in common. */
function distanceTo(wanted: string, candidate: string): number {
  if (wanted === candidate) return 0;
  if (wanted === '' || candidate === '') return 1;
  if (candidate.startsWith(wanted) || wanted.startsWith(candidate)) return 0.1;
  return editDistance(wanted, candidate) / Math.max(wanted.length, candidate.length);
}

/** Levenshtein, 1966. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const changed = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(changed, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
