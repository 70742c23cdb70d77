export interface PullOptions {
  /** Name or id. */
  readonly model: string;
  /** Semantic version, its number, or `latest` (default). */
  readonly version?: string;
  /** Default: the weights, or whatever file was uploaded; `model.json` for the description. */
  readonly format?: string;
  readonly signal?: AbortSignal | undefined;
}

/** What is known of a file before its bytes come. */
export interface FileFacts {
  readonly digest: string;
  readonly sizeBytes: number;
  readonly etag: string | undefined;
  readonly fileName: string | undefined;
}

/** A name, never a path: whoever writes the file under it must not be led into another folder. */
export function plainName(text: string | undefined): string | undefined {
  const name = text?.replace(/^.*[\\/]/s, '');
  return name === undefined || /^\.*$/.test(name) ? undefined : name;
}
