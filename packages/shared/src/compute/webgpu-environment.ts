import { OctomilError } from '@octomil/shared/errors';

/** What we use of the npm package `webgpu` (Dawn), an optional peer. */
interface WebGpuPackage {
  create(options: string[]): { requestAdapter(options: object): Promise<WebGpuAdapter | null> };
  readonly globals: Record<string, unknown>;
}

interface WebGpuAdapter {
  readonly info?: { readonly isFallbackAdapter?: boolean; readonly description?: string; readonly vendor?: string };
}

/**
 * Gives tfjs-backend-webgpu the browser globals that it reads: `navigator.gpu` and the constants of WebGPU.
 *
 * Software adapters (lavapipe, SwiftShader) are refused: they train several times slower than the wasm backend.
 *
 * @returns takes `navigator.gpu` away again, which can otherwise keep the process alive
 * @throws `accelerator_unavailable` when there is no adapter, or only a refused one
 */
export async function installWebGpu(options: { allowSoftwareGpu: boolean }): Promise<() => void> {
  const packageName = 'webgpu';
  const { create, globals } = (await import(packageName)) as WebGpuPackage;
  const gpu = create([]);
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (adapter === null) throw new OctomilError('accelerator_unavailable', 'WebGPU finds no adapter on this machine');
  if (adapter.info?.isFallbackAdapter === true && !options.allowSoftwareGpu) {
    throw new OctomilError(
      'accelerator_unavailable',
      `WebGPU offers only the software adapter "${adapter.info.description ?? adapter.info.vendor ?? 'unnamed'}", which is slower than wasm`,
    );
  }
  const target = globalThis as unknown as Record<string, unknown>;
  for (const [name, value] of Object.entries(globals)) target[name] ??= value;
  if (typeof navigator === 'undefined') {
    Object.defineProperty(globalThis, 'navigator', { value: {}, configurable: true, writable: true });
  }
  Object.defineProperty(navigator, 'gpu', { value: gpu, configurable: true });
  return () => {
    Reflect.deleteProperty(navigator, 'gpu');
  };
}
