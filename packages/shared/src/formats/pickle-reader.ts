import { OctomilError } from '@octomil/shared/errors';
import {
  describe,
  isKind,
  ORDERED_DICT,
  type PickleValue,
  REBUILD_PARAMETER,
  REBUILD_TENSOR,
  STORAGE_DTYPES,
} from './pickle-value.js';
import { storageOf, tensorOf } from './pickled-tensor.js';

export interface PickleLimits {
  /** Instructions carried out. Default 5,000,000: a state dict needs about 60 per tensor. */
  readonly maxOpcodes: number;
  /** Values remembered for later use. Default 1,000,000. */
  readonly maxMemo: number;
  /** Values waiting on the stack. Default 1,000,000. */
  readonly maxStack: number;
  /** Tensors described. Default 100,000. */
  readonly maxTensors: number;
}

export const DEFAULT_PICKLE_LIMITS: PickleLimits = {
  maxOpcodes: 5_000_000,
  maxMemo: 1_000_000,
  maxStack: 1_000_000,
  maxTensors: 100_000,
};

const GLOBALS: ReadonlySet<string> = new Set([
  ORDERED_DICT,
  REBUILD_TENSOR,
  REBUILD_PARAMETER,
  ...Object.keys(STORAGE_DTYPES),
]);
/** Beyond 2⁵³ no size or index is exact; an int of a state dict never is. */
const MAX_LONG_BYTES = 64;

/** Opcodes by their bytes (Python's `pickletools.opcodes`), as far as `torch.save` writes them for a state dict. */
const OP = {
  MARK: 0x28,
  STOP: 0x2e,
  POP: 0x30,
  BINFLOAT: 0x47,
  BININT: 0x4a,
  BININT1: 0x4b,
  BININT2: 0x4d,
  NONE: 0x4e,
  BINPERSID: 0x51,
  REDUCE: 0x52,
  BINUNICODE: 0x58,
  EMPTY_LIST: 0x5d,
  APPEND: 0x61,
  BUILD: 0x62,
  GLOBAL: 0x63,
  APPENDS: 0x65,
  BINGET: 0x68,
  LONG_BINGET: 0x6a,
  BINPUT: 0x71,
  LONG_BINPUT: 0x72,
  SETITEM: 0x73,
  TUPLE: 0x74,
  SETITEMS: 0x75,
  EMPTY_DICT: 0x7d,
  EMPTY_TUPLE: 0x29,
  PROTO: 0x80,
  TUPLE1: 0x85,
  TUPLE2: 0x86,
  TUPLE3: 0x87,
  NEWTRUE: 0x88,
  NEWFALSE: 0x89,
  LONG1: 0x8a,
  SHORT_BINUNICODE: 0x8c,
  BINBYTES: 0x42,
  SHORT_BINBYTES: 0x43,
  STACK_GLOBAL: 0x93,
  MEMOIZE: 0x94,
  FRAME: 0x95,
} as const;

/**
 * Reads the pickle of a state dict as data. It is an interpreter of our own that knows a few instructions and a few
 * names; it can call nothing, so a hostile pickle can do no more than be refused.
 *
 * @throws OctomilError `corrupt_file` naming what was found that a state dict does not need
 */
export function readPickle(bytes: Uint8Array, limits: PickleLimits = DEFAULT_PICKLE_LIMITS): PickleValue {
  return new PickleMachine(bytes, limits).run();
}

class PickleMachine {
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  readonly #limits: PickleLimits;
  readonly #stack: PickleValue[] = [];
  /** Heights of the stack at each MARK. */
  readonly #marks: number[] = [];
  readonly #memo = new Map<number, PickleValue>();
  #position = 0;
  #tensors = 0;

  constructor(bytes: Uint8Array, limits: PickleLimits) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#limits = limits;
  }

  run(): PickleValue {
    for (let opcodes = 1; ; opcodes++) {
      if (opcodes > this.#limits.maxOpcodes) throw corrupt(`it has more than ${this.#limits.maxOpcodes} instructions`);
      const at = this.#position;
      const opcode = this.#byte();
      if (opcode === OP.STOP) break;
      this.#step(opcode, at);
      if (this.#stack.length + this.#marks.length > this.#limits.maxStack) {
        throw corrupt(`it stacks more than ${this.#limits.maxStack} values`);
      }
    }
    const value = this.#pop();
    if (this.#stack.length > 0) throw corrupt('it leaves more than one value');
    return value;
  }

  #step(opcode: number, at: number): void {
    switch (opcode) {
      case OP.PROTO:
        this.#protocol(this.#byte());
        return;
      case OP.FRAME:
        this.#take(8);
        return;
      case OP.MARK:
        this.#marks.push(this.#stack.length);
        return;
      case OP.POP:
        this.#pop();
        return;
      case OP.NONE:
        this.#push(null);
        return;
      case OP.NEWTRUE:
        this.#push(true);
        return;
      case OP.NEWFALSE:
        this.#push(false);
        return;
      case OP.BININT:
        this.#push(this.#view.getInt32(this.#take(4), true));
        return;
      case OP.BININT1:
        this.#push(this.#byte());
        return;
      case OP.BININT2:
        this.#push(this.#view.getUint16(this.#take(2), true));
        return;
      case OP.LONG1:
        this.#push(this.#long(this.#byte()));
        return;
      case OP.BINFLOAT:
        this.#push(this.#view.getFloat64(this.#take(8), false));
        return;
      case OP.BINUNICODE:
        this.#push(this.#text(this.#length()));
        return;
      case OP.SHORT_BINUNICODE:
        this.#push(this.#text(this.#byte()));
        return;
      case OP.BINBYTES:
        this.#take(this.#length());
        this.#push({ kind: 'bytes' });
        return;
      case OP.SHORT_BINBYTES:
        this.#take(this.#byte());
        this.#push({ kind: 'bytes' });
        return;
      case OP.EMPTY_TUPLE:
        this.#push({ kind: 'tuple', items: [] });
        return;
      case OP.TUPLE1:
      case OP.TUPLE2:
      case OP.TUPLE3:
        this.#tuple(opcode - OP.TUPLE1 + 1);
        return;
      case OP.TUPLE:
        this.#push({ kind: 'tuple', items: this.#popMark() });
        return;
      case OP.EMPTY_LIST:
        this.#push({ kind: 'list', items: [] });
        return;
      case OP.APPEND:
        this.#append([this.#pop()]);
        return;
      case OP.APPENDS:
        this.#append(this.#popMark());
        return;
      case OP.EMPTY_DICT:
        this.#push({ kind: 'dict', entries: [] });
        return;
      case OP.SETITEM: {
        const value = this.#pop();
        this.#setItems([this.#pop(), value]);
        return;
      }
      case OP.SETITEMS:
        this.#setItems(this.#popMark());
        return;
      case OP.BINPUT:
        this.#remember(this.#byte());
        return;
      case OP.LONG_BINPUT:
        this.#remember(this.#length());
        return;
      case OP.MEMOIZE:
        this.#remember(this.#memo.size);
        return;
      case OP.BINGET:
        this.#recall(this.#byte());
        return;
      case OP.LONG_BINGET:
        this.#recall(this.#length());
        return;
      case OP.GLOBAL: {
        const module = this.#line();
        this.#global(module, this.#line());
        return;
      }
      case OP.STACK_GLOBAL: {
        const name = this.#pop();
        this.#global(this.#pop(), name);
        return;
      }
      case OP.BINPERSID:
        this.#push(storageOf(this.#pop()));
        return;
      case OP.REDUCE: {
        const args = this.#pop();
        this.#push(this.#reduce(this.#pop(), args));
        return;
      }
      case OP.BUILD:
        this.#build();
        return;
      default:
        throw corrupt(`byte ${at} of its pickle is instruction 0x${opcode.toString(16)}, which no state dict needs`);
    }
  }

  #protocol(version: number): void {
    if (version < 2 || version > 5) throw corrupt(`its pickle protocol is ${version}; 2 to 5 are known`);
  }

  #tuple(count: number): void {
    const items = Array.from({ length: count }, () => this.#pop()).reverse();
    this.#push({ kind: 'tuple', items });
  }

  #append(items: PickleValue[]): void {
    const list = this.#top();
    if (!isKind(list, 'list')) throw corrupt(`it appends to ${describe(list)}`);
    for (const item of items) list.items.push(item);
  }

  #setItems(items: PickleValue[]): void {
    const dict = this.#top();
    if (!isKind(dict, 'dict')) throw corrupt(`it sets an item of ${describe(dict)}`);
    if (items.length % 2 !== 0) throw corrupt('it sets a key without a value');
    for (let index = 0; index < items.length; index += 2) {
      dict.entries.push([items[index] ?? null, items[index + 1] ?? null]);
    }
  }

  #global(module: PickleValue, name: PickleValue): void {
    const full = `${String(module)}.${String(name)}`;
    if (typeof module !== 'string' || typeof name !== 'string' || !GLOBALS.has(full)) {
      throw corrupt(`it wants ${JSON.stringify(full).slice(0, 120)}, and only a state dict of tensors is read`);
    }
    this.#push({ kind: 'global', name: full });
  }

  #reduce(callable: PickleValue, args: PickleValue): PickleValue {
    if (!isKind(callable, 'global') || !isKind(args, 'tuple')) throw corrupt(`it calls ${describe(callable)}`);
    switch (callable.name) {
      case ORDERED_DICT:
        if (args.items.length > 0) throw corrupt('it makes an OrderedDict of arguments');
        return { kind: 'dict', entries: [] };
      case REBUILD_TENSOR:
        this.#tensors++;
        if (this.#tensors > this.#limits.maxTensors)
          throw corrupt(`it has more than ${this.#limits.maxTensors} tensors`);
        return tensorOf(args.items);
      case REBUILD_PARAMETER: {
        const [data = null] = args.items;
        if (!isKind(data, 'tensor')) throw corrupt(`it makes a parameter of ${describe(data)}`);
        return data;
      }
      default:
        throw corrupt(`it calls ${callable.name}`);
    }
  }

  /** Attributes of an OrderedDict, such as a module's `_metadata` of version numbers, say nothing about the weights. */
  #build(): void {
    this.#pop();
    const target = this.#top();
    if (!isKind(target, 'dict')) throw corrupt(`it sets attributes of ${describe(target)}`);
  }

  #remember(index: number): void {
    if (this.#memo.size >= this.#limits.maxMemo) throw corrupt(`it remembers more than ${this.#limits.maxMemo} values`);
    this.#memo.set(index, this.#top());
  }

  #recall(index: number): void {
    const value = this.#memo.get(index);
    if (value === undefined) throw corrupt(`it recalls value ${index}, which it never kept`);
    this.#push(value);
  }

  #push(value: PickleValue): void {
    this.#stack.push(value);
  }

  #pop(): PickleValue {
    const floor = this.#marks.at(-1) ?? 0;
    const value = this.#stack.length > floor ? this.#stack.pop() : undefined;
    if (value === undefined) throw corrupt('it takes a value from an empty stack');
    return value;
  }

  #top(): PickleValue {
    const floor = this.#marks.at(-1) ?? 0;
    const value = this.#stack.length > floor ? this.#stack.at(-1) : undefined;
    if (value === undefined) throw corrupt('it looks at an empty stack');
    return value;
  }

  #popMark(): PickleValue[] {
    const mark = this.#marks.pop();
    if (mark === undefined) throw corrupt('it looks for a mark that is not there');
    return this.#stack.splice(mark);
  }

  /** @returns where the bytes begin */
  #take(count: number): number {
    const start = this.#position;
    if (count > this.#bytes.length - start) throw corrupt(`its pickle ends after ${this.#bytes.length} bytes`);
    this.#position = start + count;
    return start;
  }

  #byte(): number {
    return this.#view.getUint8(this.#take(1));
  }

  #length(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  #text(length: number): string {
    const start = this.#take(length);
    // Names are JavaScript strings and the keys of maps: what is no UTF-8 has no name.
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(
        this.#bytes.subarray(start, start + length),
      );
    } catch (cause) {
      throw corrupt('a text in it is not UTF-8', cause);
    }
  }

  #line(): string {
    const end = this.#bytes.indexOf(0x0a, this.#position);
    if (end < 0 || end - this.#position > 1_000) throw corrupt('a name in its pickle does not end');
    const text = this.#text(end - this.#position);
    this.#position = end + 1;
    return text;
  }

  #long(length: number): number | bigint {
    if (length > MAX_LONG_BYTES) throw corrupt(`it holds a number of ${length} bytes`);
    const start = this.#take(length);
    let value = 0n;
    for (let index = length - 1; index >= 0; index--) {
      value = (value << 8n) | BigInt(this.#bytes[start + index] ?? 0);
    }
    const signed = BigInt.asIntN(Math.max(length * 8, 1), value);
    return Number.isSafeInteger(Number(signed)) ? Number(signed) : signed;
  }
}

function corrupt(reason: string, cause?: unknown): OctomilError {
  return new OctomilError('corrupt_file', `not a PyTorch state dict: ${reason}`, cause === undefined ? {} : { cause });
}
