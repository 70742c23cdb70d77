import { OctomilError } from '@octomil/shared/errors';
import type * as Tfjs from '@tensorflow/tfjs-core';
import type * as TfjsLayers from '@tensorflow/tfjs-layers';
import { addChainedOperations } from './chained-operations.js';
import { addMissingGradients } from './missing-gradients.js';
import { loadTensorflowAddon } from './tensorflow-addon.js';
import { installWasmKernelBridge } from './wasm-kernel-bridge.js';
import { installWebGpu } from './webgpu-environment.js';

/** In the order in which they are tried. */
export const BACKEND_NAMES = ['tfjs-node-gpu', 'tfjs-node', 'webgpu', 'wasm', 'cpu'] as const;

export type BackendName = (typeof BACKEND_NAMES)[number];

export interface BackendAttempt {
  readonly name: BackendName;
  /** Why it was passed over; absent for the one that was chosen. */
  readonly reason?: string;
}

export interface ComputeBackend {
  readonly tf: typeof Tfjs;
  readonly layers: typeof TfjsLayers;
  readonly name: BackendName;
  /** What was tried, for the log. */
  readonly tried: readonly BackendAttempt[];
  /** Releases what could keep the process alive. The backend is not usable afterwards. */
  dispose(): void;
}

export interface BackendOptions {
  /** Names in order. Default: `OCTOMIL_TFJS_BACKENDS` (comma-separated), else {@link BACKEND_NAMES}. */
  readonly order?: readonly BackendName[];
  /** Accept a WebGPU adapter that runs on the CPU. Default false: it is slower than wasm. For tests of that path. */
  readonly allowSoftwareGpu?: boolean;
}

let chosen: Promise<ComputeBackend> | undefined;

/**
 * The tfjs backend of this process: the first in order that loads and multiplies two matrices correctly.
 *
 * tfjs has one engine a process, so the first call decides and later ones get its answer, whatever their options.
 *
 * @throws `config_invalid` for an unknown name in `OCTOMIL_TFJS_BACKENDS`; `runtime_unavailable` with every reason when
 * none works
 */
export function selectBackend(options: BackendOptions = {}): Promise<ComputeBackend> {
  chosen ??= chooseBackend(options).catch((error: unknown) => {
    chosen = undefined;
    throw error;
  });
  return chosen;
}

/** @throws `config_invalid` naming what is unknown and what is known */
export function parseBackendOrder(text: string): BackendName[] {
  const names = text
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');
  const unknown = names.filter((name) => !(BACKEND_NAMES as readonly string[]).includes(name));
  if (unknown.length > 0 || names.length === 0) {
    throw new OctomilError(
      'config_invalid',
      `OCTOMIL_TFJS_BACKENDS is "${text}"; it lists one or more of ${BACKEND_NAMES.join(', ')}, separated by commas`,
    );
  }
  return names as BackendName[];
}

async function chooseBackend(options: BackendOptions): Promise<ComputeBackend> {
  const override = process.env['OCTOMIL_TFJS_BACKENDS'];
  const order = options.order ?? (override ? parseBackendOrder(override) : BACKEND_NAMES);
  const tf = await import('@tensorflow/tfjs-core');
  addChainedOperations(tf);
  const tried: BackendAttempt[] = [];
  for (const name of order) {
    let release = (): void => undefined;
    try {
      release = await activate(tf, name, options.allowSoftwareGpu ?? false);
      await multiplyTwoMatrices(tf);
      const layers = await import('@tensorflow/tfjs-layers');
      // After it: it registers the gradients of tfjs-core once more.
      addMissingGradients(tf);
      tried.push({ name });
      return { tf, layers, name, tried, dispose: release };
    } catch (error) {
      release();
      tried.push({ name, reason: firstLine(error) });
    }
  }
  const reasons = tried.map(({ name, reason }) => `${name}: ${reason}`).join('; ');
  throw new OctomilError('runtime_unavailable', `no tfjs backend works here (${reasons})`, { details: { tried } });
}

/** Loads a backend and makes it the engine's. The answer releases it. */
async function activate(tf: typeof Tfjs, name: BackendName, allowSoftwareGpu: boolean): Promise<() => void> {
  switch (name) {
    case 'tfjs-node-gpu':
    case 'tfjs-node':
      loadTensorflowAddon(`@tensorflow/${name}`);
      await setBackend(tf, 'tensorflow');
      return () => undefined;
    case 'webgpu': {
      const uninstall = await installWebGpu({ allowSoftwareGpu });
      try {
        const packageName = '@tensorflow/tfjs-backend-webgpu';
        await import(packageName);
        await setBackend(tf, 'webgpu');
      } catch (error) {
        uninstall();
        throw error;
      }
      return () => {
        tf.removeBackend('webgpu');
        uninstall();
      };
    }
    case 'wasm':
      await import('@tensorflow/tfjs-backend-wasm');
      await setBackend(tf, 'wasm');
      await installWasmKernelBridge(tf);
      return () => undefined;
    case 'cpu':
      await import('@tensorflow/tfjs-backend-cpu');
      await setBackend(tf, 'cpu');
      return () => undefined;
  }
}

async function setBackend(tf: typeof Tfjs, name: string): Promise<void> {
  if (!(await tf.setBackend(name))) {
    throw new OctomilError('accelerator_unavailable', `the backend "${name}" did not start`);
  }
  await tf.ready();
}

/** A backend that loads may still compute nothing or nonsense: a wrong driver, a half-installed library. */
async function multiplyTwoMatrices(tf: typeof Tfjs): Promise<void> {
  const product = tf.tidy(() => {
    const matrix = tf.tensor2d([1, 2, 3, 4], [2, 2]);
    return tf.matMul(matrix, matrix);
  });
  const values = [...(await product.data())];
  product.dispose();
  if (values.join() !== '7,10,15,22') {
    throw new OctomilError('accelerator_unavailable', `a 2x2 product gave ${values.join()} instead of 7,10,15,22`);
  }
}

function firstLine(error: unknown): string {
  const text = error instanceof OctomilError ? error.reason : error instanceof Error ? error.message : String(error);
  return text.split('\n', 1)[0]?.slice(0, 200) ?? '';
}
