/** Where choices come from; the n-th number decides the n-th choice. */
export interface Choices {
  next(): IteratorResult<number, unknown>;
}

type Node =
  | { readonly kind: 'literal'; readonly text: string }
  | { readonly kind: 'class'; readonly characters: string }
  | { readonly kind: 'rule'; readonly name: string }
  | { readonly kind: 'sequence'; readonly items: readonly Node[] }
  | { readonly kind: 'choice'; readonly items: readonly Node[] }
  | { readonly kind: 'repeat'; readonly item: Node; readonly least: number; readonly most: number };

/** After this many steps the shortest way out is taken. */
const LONG_ENOUGH = 400;

/** A sentence of a GBNF grammar, chosen by `choices`: an independent reader of what the converter writes. */
export function sentenceOf(grammar: string, choices: Choices): string {
  const rules = new Map(
    grammar.split('\n').map((line) => {
      const [name = '', body = ''] = line.split(' ::= ');
      return [name, parse(body)] as const;
    }),
  );
  const heights = leastHeights(rules);
  let steps = 0;
  const pick = (count: number): number => Number(choices.next().value) % count;
  const write = (node: Node): string => {
    steps += 1;
    switch (node.kind) {
      case 'literal':
        return node.text;
      case 'class':
        return node.characters[pick(node.characters.length)] ?? '';
      case 'rule':
        return write(rules.get(node.name) ?? { kind: 'literal', text: `<no rule ${node.name}>` });
      case 'sequence':
        return node.items.map(write).join('');
      case 'choice': {
        const shortest = [...node.items].sort((a, b) => height(a, heights) - height(b, heights));
        return write((steps > LONG_ENOUGH ? shortest[0] : node.items[pick(node.items.length)]) as Node);
      }
      case 'repeat': {
        const most = Math.min(node.most, node.least + 3);
        const times = steps > LONG_ENOUGH ? node.least : node.least + pick(most - node.least + 1);
        return Array.from({ length: times }, () => write(node.item)).join('');
      }
    }
  };
  return write({ kind: 'rule', name: 'root' });
}

/** How deep a rule goes at least; infinite while that is not known. */
function leastHeights(rules: ReadonlyMap<string, Node>): Map<string, number> {
  const heights = new Map<string, number>();
  for (let round = 0; round <= rules.size; round++) {
    for (const [name, body] of rules) heights.set(name, height(body, heights) + 1);
  }
  return heights;
}

function height(node: Node, heights: ReadonlyMap<string, number>): number {
  switch (node.kind) {
    case 'literal':
    case 'class':
      return 0;
    case 'rule':
      return heights.get(node.name) ?? Number.POSITIVE_INFINITY;
    case 'sequence':
      return Math.max(0, ...node.items.map((item) => height(item, heights)));
    case 'choice':
      return Math.min(...node.items.map((item) => height(item, heights)));
    case 'repeat':
      return node.least === 0 ? 0 : height(node.item, heights);
  }
}

function parse(source: string): Node {
  let position = 0;
  const skip = (): void => {
    while (source[position] === ' ') position += 1;
  };
  const choice = (): Node => {
    const items = [sequence()];
    while (source[position] === '|') {
      position += 1;
      items.push(sequence());
    }
    return items.length === 1 ? (items[0] as Node) : { kind: 'choice', items };
  };
  const sequence = (): Node => {
    const items: Node[] = [];
    for (;;) {
      skip();
      const next = source[position];
      if (next === undefined || next === '|' || next === ')') return { kind: 'sequence', items };
      items.push(repeated(atom()));
    }
  };
  const atom = (): Node => {
    const next = source[position];
    if (next === '(') {
      position += 1;
      const inner = choice();
      position += 1;
      return inner;
    }
    if (next === '"') return { kind: 'literal', text: quoted('"') };
    if (next === '[') return { kind: 'class', characters: members(quoted(']')) };
    const name = /^\w+/.exec(source.slice(position))?.[0] ?? '';
    if (name === '') throw new TypeError(`not a grammar at ${position}: ${source.slice(position, position + 20)}`);
    position += name.length;
    return { kind: 'rule', name };
  };
  const repeated = (item: Node): Node => {
    const [whole, sign, least, most] = /^(?:([*?+])|\{(\d+)(?:(,)(\d*))?\})/.exec(source.slice(position)) ?? [];
    if (whole === undefined) return item;
    const bounds = /^\{(\d+)(?:,(\d*))?\}/.exec(whole);
    position += whole.length;
    if (sign !== undefined) {
      return { kind: 'repeat', item, least: sign === '+' ? 1 : 0, most: sign === '?' ? 1 : Number.POSITIVE_INFINITY };
    }
    const upper =
      most === undefined ? Number(least) : bounds?.[2] === '' ? Number.POSITIVE_INFINITY : Number(bounds?.[2]);
    return { kind: 'repeat', item, least: Number(least), most: upper };
  };
  /** From behind the opening sign to the closing one; escapes stay, for `members` to read. */
  const quoted = (closing: string): string => {
    const start = ++position;
    while (source[position] !== closing) position += source[position] === '\\' ? 2 : 1;
    const text = source.slice(start, position++);
    return closing === '"' ? text.replaceAll(/\\(.)/g, (_all, sign: string) => (sign === 'n' ? '\n' : sign)) : text;
  };
  return choice();
}

/** The printable ASCII characters of a class, and some beyond where it is a negated one. */
function members(body: string): string {
  const negated = body.startsWith('^');
  const signs = [...(negated ? body.slice(1) : body).matchAll(/\\x([0-9a-f]{2})|\\(.)|([\s\S])/g)].map(
    ([, hex, escaped, plain]) =>
      hex === undefined ? (escaped ?? plain ?? '') : String.fromCharCode(Number.parseInt(hex, 16)),
  );
  const listed = new Set<string>();
  for (let index = 0; index < signs.length; index++) {
    const [from = '', dash, to] = signs.slice(index, index + 3);
    if (dash === '-' && to !== undefined) {
      for (let code = from.charCodeAt(0); code <= to.charCodeAt(0); code++) listed.add(String.fromCharCode(code));
      index += 2;
    } else listed.add(from);
  }
  if (!negated) return [...listed].join('');
  const all = Array.from({ length: 0x180 }, (_item, code) => String.fromCharCode(code));
  return all.filter((character) => !listed.has(character)).join('');
}
