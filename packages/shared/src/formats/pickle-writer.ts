import { OctomilError } from '@octomil/shared/errors';
import type { TensorShape } from '@octomil/shared/tensors';

/**
 * The `data.pkl` of a state dict of float32 tensors, each in a storage of its own, named `0`, `1` … in this order.
 * Protocol 2, and only what `torch.load(weights_only=True)` takes: the instructions are those of Python's `pickletools`.
 *
 * @throws OctomilError `invalid_input` for a name with half of a surrogate pair
 */
export function stateDictPickle(tensors: readonly TensorShape[]): Uint8Array {
  const out = new PickleBytes();
  out.raw(0x80, 2);
  // OrderedDict(), then one SETITEMS.
  out.global('collections', 'OrderedDict').raw(0x29, 0x52, 0x28);
  tensors.forEach((tensor, index) => {
    out.text(tensor.name);
    writeTensor(out, tensor.shape, String(index));
  });
  out.raw(0x75, 0x2e);
  return out.done();
}

function writeTensor(out: PickleBytes, shape: readonly number[], key: string): void {
  const elements = shape.reduce((total, size) => total * size, 1);
  let stride = 1;
  const strides = shape.map(() => 0);
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= Math.max(shape[axis] ?? 1, 1);
  }
  out.global('torch._utils', '_rebuild_tensor_v2');
  // MARK … TUPLE: the arguments; MARK … TUPLE BINPERSID: the storage.
  out.raw(0x28, 0x28).text('storage').global('torch', 'FloatStorage').text(key).text('cpu').int(elements);
  out.raw(0x74, 0x51).int(0).tuple(shape).tuple(strides);
  // requires_grad False, and an empty OrderedDict of hooks.
  out.raw(0x89).global('collections', 'OrderedDict').raw(0x29, 0x52);
  out.raw(0x74, 0x52);
}

class PickleBytes {
  readonly #parts: Uint8Array[] = [];

  raw(...bytes: number[]): this {
    this.#parts.push(Uint8Array.from(bytes));
    return this;
  }

  global(module: string, name: string): this {
    this.#parts.push(Buffer.from(`c${module}\n${name}\n`, 'latin1'));
    return this;
  }

  text(text: string): this {
    if (!text.isWellFormed()) {
      throw new OctomilError('invalid_input', `tensor name ${JSON.stringify(text)} has half of a surrogate pair in it`);
    }
    const bytes = Buffer.from(text, 'utf8');
    const head = Buffer.alloc(5);
    head.writeUInt8(0x58);
    head.writeUInt32LE(bytes.length, 1);
    this.#parts.push(head, bytes);
    return this;
  }

  int(value: number): this {
    if (value < 256) return this.raw(0x4b, value);
    const head = Buffer.alloc(value < 2 ** 31 ? 5 : 10);
    if (value < 2 ** 31) {
      head.writeUInt8(0x4a);
      head.writeInt32LE(value, 1);
    } else {
      // LONG1 of eight bytes.
      head.writeUInt8(0x8a);
      head.writeUInt8(8, 1);
      head.writeBigInt64LE(BigInt(value), 2);
    }
    this.#parts.push(head);
    return this;
  }

  tuple(values: readonly number[]): this {
    if (values.length === 0) return this.raw(0x29);
    this.raw(0x28);
    for (const value of values) this.int(value);
    return this.raw(0x74);
  }

  done(): Uint8Array {
    return Buffer.concat(this.#parts);
  }
}
