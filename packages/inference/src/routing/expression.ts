import { Decimal } from 'decimal.js';

/** Exact for sums and products of what people type; results with more digits are left to a model. */
const Exact = Decimal.clone({ precision: 120, rounding: Decimal.ROUND_HALF_EVEN, toExpNeg: -40, toExpPos: 120 });
export type ExactNumber = InstanceType<typeof Exact>;

const MAX_CHARACTERS = 200;
const MAX_TOKENS = 64;
const MAX_DEPTH = 16;
const MAX_EXPONENT = 1000;
const MAX_FACTORIAL = 60;
/** Longer integers are no answer that anybody reads. */
const MAX_DIGITS = 60;

type Token =
  | { readonly kind: 'number'; readonly value: ExactNumber }
  | { readonly kind: 'operator'; readonly text: string }
  | { readonly kind: 'function'; readonly name: FunctionName };

const FUNCTIONS = {
  sqrt: (value: ExactNumber) => (value.isNegative() ? undefined : value.sqrt()),
  abs: (value: ExactNumber) => value.abs(),
  ceil: (value: ExactNumber) => value.ceil(),
  floor: (value: ExactNumber) => value.floor(),
} as const;
type FunctionName = keyof typeof FUNCTIONS;

/** Left binding powers (Pratt, "Top Down Operator Precedence", 1973). */
const BINDING: Readonly<Record<string, number>> = { '+': 10, '-': 10, '*': 20, '/': 20, mod: 20, '^': 40, '!': 50 };
const UNARY = 30;

const LEXEME =
  /\s*(?:(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?![\d.,]*\d)|(sqrt|abs|ceil|floor|mod)\b|(\*\*|[-+*/^()!×·÷−]))/iy;
const SPELLING: Readonly<Record<string, string>> = { '**': '^', '×': '*', '·': '*', '÷': '/', '−': '-' };

/**
 * The value of an arithmetic expression: `+ - * / mod ^ !`, parentheses, `3(4)`, sqrt, abs, ceil, floor. Undefined for
 * anything else, for what has no value (`1/0`), and for what would be too large; it never throws and never takes long.
 */
export function evaluateExpression(text: string): ExactNumber | undefined {
  const tokens = tokenize(text);
  if (tokens === undefined) return undefined;
  const parser = new Parser(tokens);
  const value = parser.expression(0, 0);
  return value !== undefined && parser.atEnd && fits(value) ? value : undefined;
}

const SIGNIFICANT_DIGITS = 12;

/** What came out even as it is; else 12 significant digits, and of a large number two places behind the point. */
export function roundedNumber(value: ExactNumber): ExactNumber {
  if (value.isInteger() || value.precision() <= 15) return value;
  return value.toSignificantDigits(Math.max(SIGNIFICANT_DIGITS, value.e + 3));
}

/** Plain digits, rounded as `roundedNumber`. */
export function formatNumber(value: ExactNumber): string {
  const rounded = roundedNumber(value);
  return rounded.isZero() ? '0' : rounded.toFixed();
}

export function exact(text: string): ExactNumber {
  return new Exact(text.replaceAll(',', ''));
}

function tokenize(text: string): Token[] | undefined {
  if (text.length > MAX_CHARACTERS) return undefined;
  const source = text.trim();
  const tokens: Token[] = [];
  LEXEME.lastIndex = 0;
  while (LEXEME.lastIndex < source.length) {
    const match = LEXEME.exec(source);
    if (match === null || tokens.length >= MAX_TOKENS) return undefined;
    const [, number, word, operator] = match;
    if (number !== undefined) tokens.push({ kind: 'number', value: exact(number) });
    else if (word !== undefined && word.toLowerCase() !== 'mod') {
      tokens.push({ kind: 'function', name: word.toLowerCase() as FunctionName });
    } else {
      const text = (operator ?? 'mod').toLowerCase();
      tokens.push({ kind: 'operator', text: SPELLING[text] ?? text });
    }
  }
  return tokens.length === 0 ? undefined : tokens;
}

class Parser {
  readonly #tokens: readonly Token[];
  #position = 0;

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  get atEnd(): boolean {
    return this.#position === this.#tokens.length;
  }

  expression(minimumBinding: number, depth: number): ExactNumber | undefined {
    if (depth > MAX_DEPTH) return undefined;
    let left = this.#prefix(depth);
    while (left !== undefined) {
      const operator = this.#infix();
      if (operator === undefined) return left;
      const binding = BINDING[operator.text] ?? 0;
      if (binding <= minimumBinding) return left;
      if (operator.explicit) this.#position += 1;
      if (operator.text === '!') {
        left = factorial(left);
        continue;
      }
      // Powers group from the right: 2^3^2 is 2^9.
      const right = this.expression(operator.text === '^' ? binding - 1 : binding, depth + 1);
      left = right === undefined ? undefined : apply(operator.text, left, right);
    }
    return undefined;
  }

  /** The operator ahead; `3(4)` and `2 sqrt(9)` multiply without one. */
  #infix(): { readonly text: string; readonly explicit: boolean } | undefined {
    const token = this.#tokens[this.#position];
    if (token === undefined || (token.kind === 'operator' && token.text === ')')) return undefined;
    if (token.kind === 'operator' && token.text !== '(') return { text: token.text, explicit: true };
    if (token.kind === 'number') return undefined;
    return { text: '*', explicit: false };
  }

  #prefix(depth: number): ExactNumber | undefined {
    const token = this.#tokens[this.#position];
    this.#position += 1;
    if (token === undefined) return undefined;
    if (token.kind === 'number') return token.value;
    if (token.kind === 'function') {
      const next = this.#tokens[this.#position];
      if (next?.kind !== 'operator' || next.text !== '(') return undefined;
      const argument = this.#prefix(depth + 1);
      return argument === undefined ? undefined : FUNCTIONS[token.name](argument);
    }
    if (token.text === '-' || token.text === '+') {
      const operand = this.expression(UNARY, depth + 1);
      return token.text === '-' ? operand?.neg() : operand;
    }
    if (token.text !== '(') return undefined;
    const inner = this.expression(0, depth + 1);
    const closing = this.#tokens[this.#position];
    if (closing?.kind !== 'operator' || closing.text !== ')') return undefined;
    this.#position += 1;
    return inner;
  }
}

function apply(operator: string, left: ExactNumber, right: ExactNumber): ExactNumber | undefined {
  switch (operator) {
    case '+':
      return checked(left.plus(right));
    case '-':
      return checked(left.minus(right));
    case '*':
      return checked(left.times(right));
    case '/':
      return right.isZero() ? undefined : checked(left.div(right));
    case 'mod':
      // Of negative numbers, some give the sign of the one and some of the other.
      return right.isPositive() && !right.isZero() && !left.isNegative() ? checked(left.mod(right)) : undefined;
    case '^':
      return power(left, right);
    default:
      return undefined;
  }
}

function power(base: ExactNumber, exponent: ExactNumber): ExactNumber | undefined {
  if (exponent.abs().greaterThan(MAX_EXPONENT) || (base.isZero() && !exponent.isPositive())) return undefined;
  // 0^0 is a convention, not an answer.
  if (base.isZero() && exponent.isZero()) return undefined;
  if (!exponent.isInteger() && base.isNegative()) return undefined;
  // Before it is computed: 9^9^9 has 370 million digits.
  const digits = base.isZero() ? 0 : exponent.toNumber() * Math.log10(base.abs().toNumber());
  return Math.abs(digits) > MAX_DIGITS ? undefined : checked(base.pow(exponent));
}

function factorial(value: ExactNumber): ExactNumber | undefined {
  if (!value.isInteger() || value.isNegative() || value.greaterThan(MAX_FACTORIAL)) return undefined;
  let product = new Exact(1);
  for (let factor = 2; factor <= value.toNumber(); factor++) product = product.times(factor);
  return checked(product);
}

function checked(value: ExactNumber): ExactNumber | undefined {
  return value.isFinite() && Math.abs(value.e) <= 100 ? value : undefined;
}

function fits(value: ExactNumber): boolean {
  return value.isFinite() && Math.abs(value.e) < MAX_DIGITS;
}
