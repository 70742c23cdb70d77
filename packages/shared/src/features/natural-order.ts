/**
 * Orders names as people count: `px2` before `px10`. By code units apart from digits, so that every machine agrees
 * (the order of `Intl.Collator` changes with the ICU version).
 */
export function compareNaturally(a: string, b: string): number {
  const left = a.match(/\d+|\D+/g) ?? [];
  const right = b.match(/\d+|\D+/g) ?? [];
  for (let i = 0; i < left.length && i < right.length; i++) {
    const [x, y] = [left[i] ?? '', right[i] ?? ''];
    const order = /^\d/.test(x) && /^\d/.test(y) ? compareDigits(x, y) : compareText(x, y);
    if (order !== 0) return order;
  }
  return left.length - right.length || compareText(a, b);
}

function compareDigits(a: string, b: string): number {
  const [x, y] = [a.replace(/^0+/, ''), b.replace(/^0+/, '')];
  return x.length - y.length || compareText(x, y);
}

export function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
