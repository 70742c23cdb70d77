// Emits the fold kernels as a WebAssembly module, byte by byte, and writes it as base64 into a TypeScript file.
// There is no assembler to install, and the same script gives the same bytes everywhere.
//
//   node scripts/build-wasm.js           writes packages/shared/src/compute/wasm/fold-module.ts
//   node scripts/build-wasm.js --check   fails when that file differs
//
// What each kernel computes is written in plain JavaScript in compute/fold-kernel-js.ts; a property test holds both
// to the same bytes. No fused multiply-add and no relaxed SIMD: those give other bits on other machines.
import { readFileSync, writeFileSync } from 'node:fs';

const target = new URL('../packages/shared/src/compute/wasm/fold-module.ts', import.meta.url);

// Binary format: https://webassembly.github.io/spec/core/binary/
const leb = (value) => {
  const out = [];
  do {
    const low = value & 0x7f;
    value >>>= 7;
    out.push(value === 0 ? low : low | 0x80);
  } while (value !== 0);
  return out;
};
const signedLeb = (value) => {
  const out = [];
  for (;;) {
    const low = value & 0x7f;
    value >>= 7;
    if ((value === 0 && (low & 0x40) === 0) || (value === -1 && (low & 0x40) !== 0)) return [...out, low];
    out.push(low | 0x80);
  }
};
const vector = (items) => [...leb(items.length), ...items.flat()];
const section = (id, items) => [id, ...leb(items.length), ...items];
const text = (value) => vector([...new TextEncoder().encode(value)]);

const I32 = 0x7f;
const F64 = 0x7c;
const V128 = 0x7b;

// Instructions. Each takes its operands' code and gives code, so that nesting reads like an expression.
const get = (local) => [0x20, ...leb(local)];
const set = (local, code) => [...code, 0x21, ...leb(local)];
const i32 = (value) => [0x41, ...signedLeb(value)];
const plain =
  (opcode) =>
  (...operands) => [...operands.flat(), opcode];
const simd =
  (opcode, ...immediates) =>
  (...operands) => [...operands.flat(), 0xfd, ...leb(opcode), ...immediates];
const memory = (opcode, offset, ...operands) => [...operands.flat(), ...opcode, 0, ...leb(offset)];

const add32 = plain(0x6a);
const shiftLeft = plain(0x74);
const and32 = plain(0x71);
const below = plain(0x49);
const f64add = plain(0xa0);
const f64sub = plain(0xa1);
const f64mul = plain(0xa2);
const f64div = plain(0xa3);
const f32abs = plain(0x8b);
const f32less = plain(0x5d);
const promote = plain(0xbb);
const demote = plain(0xb6);
const select = plain(0x1b);

const load32 = (address, offset = 0) => memory([0x2a], offset, address);
const load64 = (address, offset = 0) => memory([0x2b], offset, address);
const store32 = (address, value, offset = 0) => memory([0x38], offset, address, value);
const store64 = (address, value, offset = 0) => memory([0x39], offset, address, value);
const load = (address, offset = 0) => memory([0xfd, 0x00], offset, address);
const store = (address, value, offset = 0) => memory([0xfd, 0x0b], offset, address, value);

const splat32 = simd(0x13);
const splat64 = simd(0x14);
const anyTrue = simd(0x53);
const or = simd(0x50);
const abs4 = simd(0xe0);
const sub4 = simd(0xe5);
const pmax4 = simd(0xeb);
const add2 = simd(0xf0);
const sub2 = simd(0xf1);
const mul2 = simd(0xf2);
const div2 = simd(0xf3);
const promoteLow = simd(0x5f);
const demoteZero = simd(0x5e);
const upperHalf = (code) => simd(0x0d, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)(code, code);
const joinLow = simd(0x0d, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
const promoteHigh = (code) => promoteLow(upperHalf(code));

/** `while (pointer < end) body`, the pointer moved on by the body. */
const loopWhile = (pointer, end, body) => [
  ...[0x02, 0x40, 0x03, 0x40],
  ...below(get(pointer), get(end)),
  ...[0x45, 0x0d, 1],
  ...body,
  ...[0x0c, 0, 0x0b, 0x0b],
];
const advance = (pointer, bytes) => set(pointer, add32(get(pointer), i32(bytes)));
/** x - x is zero for every finite number, and NaN otherwise. */
const noteBad = (bad, value) => set(bad, or(get(bad), sub4(value, value)));

const kernels = [];
const kernel = (name, parameters, result, locals, body) => kernels.push({ name, parameters, result, locals, body });
/** Pointer behind `count` floats (the count's low bits cut off where blocks are wanted). */
const endOf = (pointer, count, block) =>
  add32(get(pointer), shiftLeft(block === 1 ? get(count) : and32(get(count), i32(-block)), i32(2)));

// accumulateK(acc, x1..xK, n, w1..wK) -> 1 when an x is not finite:  acc[i] = ((acc[i] + w1*x1[i]) + w2*x2[i]) ...
// Several inputs at once read and write the accumulator once; the sums are the same as one after another.
for (const inputs of [1, 2, 4]) {
  const xs = Array.from({ length: inputs }, (_, index) => 1 + index);
  const count = 1 + inputs;
  const weights = xs.map((_, index) => count + 1 + index);
  const parameters = [I32, ...xs.map(() => I32), I32, ...weights.map(() => F64)];
  let next = parameters.length;
  const end = next++;
  const bad = next++;
  const value = next++;
  const low = next++;
  const high = next++;
  const wide = weights.map(() => next++);
  const block = (offset) => [
    ...set(low, load(get(0), offset * 2)),
    ...set(high, load(get(0), offset * 2 + 16)),
    ...xs.flatMap((x, index) => [
      ...set(value, load(get(x), offset)),
      ...noteBad(bad, get(value)),
      ...set(low, add2(get(low), mul2(promoteLow(get(value)), get(wide[index])))),
      ...set(high, add2(get(high), mul2(promoteHigh(get(value)), get(wide[index])))),
    ]),
    ...store(get(0), get(low), offset * 2),
    ...store(get(0), get(high), offset * 2 + 16),
  ];
  kernel(
    `accumulate${inputs}`,
    parameters,
    [I32],
    [
      [1, I32],
      [4 + inputs, V128],
    ],
    [
      ...weights.flatMap((weight, index) => set(wide[index], splat64(get(weight)))),
      ...set(end, endOf(1, count, 8)),
      ...loopWhile(1, end, [...block(0), ...block(16), ...advance(0, 64), ...xs.flatMap((x) => advance(x, 32))]),
      ...set(end, add32(get(1), shiftLeft(and32(get(count), i32(7)), i32(2)))),
      ...loopWhile(1, end, [
        ...xs.flatMap((x, index) => [
          ...noteBad(bad, splat32(load32(get(x)))),
          ...store64(get(0), f64add(load64(get(0)), f64mul(promote(load32(get(x))), get(weights[index])))),
        ]),
        ...advance(0, 8),
        ...xs.flatMap((x) => advance(x, 4)),
      ]),
      ...anyTrue(get(bad)),
    ],
  );
}

// measure(x, n, state): state = 4 f64 sums of squares | 4 f32 greatest magnitudes | 4 words that are 0 while all is finite.
// Element i of a call goes to lane i mod 4. Only the last call for a vector may have n not divisible by 4.
{
  const [x, count, state, end, sum, magnitude, value, low, high, greatest, bad] = Array.from({ length: 11 }).keys();
  kernel(
    'measure',
    [I32, I32, I32],
    [],
    [
      [3, I32],
      [5, V128],
    ],
    [
      ...set(low, load(get(state))),
      ...set(high, load(get(state), 16)),
      ...set(greatest, load(get(state), 32)),
      ...set(bad, load(get(state), 48)),
      ...set(end, endOf(x, count, 4)),
      ...loopWhile(x, end, [
        ...set(value, load(get(x))),
        ...noteBad(bad, get(value)),
        ...set(greatest, pmax4(get(greatest), abs4(get(value)))),
        ...set(low, add2(get(low), mul2(promoteLow(get(value)), promoteLow(get(value))))),
        ...set(high, add2(get(high), mul2(promoteHigh(get(value)), promoteHigh(get(value))))),
        ...advance(x, 16),
      ]),
      ...store(get(state), get(low)),
      ...store(get(state), get(high), 16),
      ...store(get(state), get(greatest), 32),
      // The rest, lane by lane.
      ...set(end, add32(get(x), shiftLeft(and32(get(count), i32(3)), i32(2)))),
      ...set(sum, get(state)),
      ...set(magnitude, get(state)),
      ...loopWhile(x, end, [
        ...noteBad(bad, splat32(load32(get(x)))),
        ...store64(get(sum), f64add(load64(get(sum)), f64mul(promote(load32(get(x))), promote(load32(get(x)))))),
        ...store32(
          get(magnitude),
          select(
            f32abs(load32(get(x))),
            load32(get(magnitude), 32),
            f32less(load32(get(magnitude), 32), f32abs(load32(get(x)))),
          ),
          32,
        ),
        ...advance(x, 4),
        ...advance(magnitude, 4),
        ...advance(sum, 8),
      ]),
      ...store(get(state), get(bad), 48),
    ],
  );
}

// divide(acc, n, by): acc[i] = acc[i] / by
{
  const [acc, count, by, end] = [0, 1, 2, 3];
  kernel(
    'divide',
    [I32, I32, F64],
    [],
    [[1, I32]],
    [
      ...set(end, add32(get(acc), shiftLeft(and32(get(count), i32(-2)), i32(3)))),
      ...loopWhile(acc, end, [...store(get(acc), div2(load(get(acc)), splat64(get(by)))), ...advance(acc, 16)]),
      ...set(end, add32(get(acc), shiftLeft(and32(get(count), i32(1)), i32(3)))),
      ...loopWhile(acc, end, [...store64(get(acc), f64div(load64(get(acc)), get(by))), ...advance(acc, 8)]),
    ],
  );
}

// subtract(acc, base, n): acc[i] = acc[i] - base[i]
{
  const [acc, base, count, end, value] = [0, 1, 2, 3, 4];
  kernel(
    'subtract',
    [I32, I32, I32],
    [],
    [
      [1, I32],
      [1, V128],
    ],
    [
      ...set(end, endOf(base, count, 4)),
      ...loopWhile(base, end, [
        ...set(value, load(get(base))),
        ...store(get(acc), sub2(load(get(acc)), promoteLow(get(value)))),
        ...store(get(acc), sub2(load(get(acc), 16), promoteHigh(get(value))), 16),
        ...advance(acc, 32),
        ...advance(base, 16),
      ]),
      ...set(end, add32(get(base), shiftLeft(and32(get(count), i32(3)), i32(2)))),
      ...loopWhile(base, end, [
        ...store64(get(acc), f64sub(load64(get(acc)), promote(load32(get(base))))),
        ...advance(acc, 8),
        ...advance(base, 4),
      ]),
    ],
  );
}

// addRounded(base, acc, out, n) -> 1 when an out is not finite: out[i] = f32(f64(base[i]) + acc[i])
{
  const [base, acc, out, count, end, value, bad] = [0, 1, 2, 3, 4, 5, 6];
  kernel(
    'addRounded',
    [I32, I32, I32, I32],
    [I32],
    [
      [1, I32],
      [2, V128],
    ],
    [
      ...set(end, endOf(base, count, 4)),
      ...loopWhile(base, end, [
        ...set(value, load(get(base))),
        ...set(
          value,
          joinLow(
            demoteZero(add2(promoteLow(get(value)), load(get(acc)))),
            demoteZero(add2(promoteHigh(get(value)), load(get(acc), 16))),
          ),
        ),
        ...noteBad(bad, get(value)),
        ...store(get(out), get(value)),
        ...advance(acc, 32),
        ...advance(base, 16),
        ...advance(out, 16),
      ]),
      ...set(end, add32(get(base), shiftLeft(and32(get(count), i32(3)), i32(2)))),
      ...loopWhile(base, end, [
        ...store32(get(out), demote(f64add(promote(load32(get(base))), load64(get(acc))))),
        ...noteBad(bad, splat32(load32(get(out)))),
        ...advance(acc, 8),
        ...advance(base, 4),
        ...advance(out, 4),
      ]),
      ...anyTrue(get(bad)),
    ],
  );
}

const functionBody = ({ locals, body }) => {
  const code = [...vector(locals.map(([count, type]) => [...leb(count), type])), ...body, 0x0b];
  return [...leb(code.length), ...code];
};
const module = Uint8Array.from([
  ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
  ...section(1, vector(kernels.map(({ parameters, result }) => [0x60, ...vector(parameters), ...vector(result)]))),
  // The memory comes from outside, sized for the job: at most 4 GiB.
  ...section(2, vector([[...text('octomil'), ...text('memory'), 0x02, 0x00, 0x01]])),
  ...section(3, vector(kernels.map((_, index) => leb(index)))),
  ...section(7, vector(kernels.map(({ name }, index) => [...text(name), 0x00, ...leb(index)]))),
  ...section(10, vector(kernels.map(functionBody))),
]);
// Throws with the place when the bytes are no valid module.
new WebAssembly.Module(module);

const source = `// Generated by scripts/build-wasm.js; edit that.

/** The fold kernels as a WebAssembly module, in base64. Import: \`octomil.memory\`. */
export const FOLD_MODULE_BASE64 =
  '${Buffer.from(module).toString('base64')}';
`;
if (process.argv.includes('--check')) {
  if (readFileSync(target, 'utf8') !== source) {
    console.error(
      'packages/shared/src/compute/wasm/fold-module.ts is stale. Run "node scripts/build-wasm.js" and commit it.',
    );
    process.exit(1);
  }
} else {
  writeFileSync(target, source);
  console.log(`${module.length} bytes`);
}
