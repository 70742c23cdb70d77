/** What we use of WebAssembly: its types belong to the DOM library, which is not loaded for code that runs in Node. */
interface WebAssemblyApi {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (module: object, imports: object) => { readonly exports: Record<string, unknown> };
  readonly Memory: new (size: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer };
  readonly CompileError: new () => Error;
}

export const { Module, Instance, Memory, CompileError } = (globalThis as unknown as { WebAssembly: WebAssemblyApi })
  .WebAssembly;
