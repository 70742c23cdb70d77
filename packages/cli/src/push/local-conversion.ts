import { basename, join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { convertFile, FORMAT_EXTENSIONS, READABLE_FORMATS, WRITABLE_FORMATS } from '@octomil/shared/formats';
import type { LocalFile } from './local-files.js';

export interface ConversionPlan {
  /** Made here, from the weights in `from`. */
  readonly here: readonly (typeof WRITABLE_FORMATS)[number][];
  readonly from: LocalFile | undefined;
  /** Left to the coordinator, which may have converters of its own. */
  readonly there: readonly string[];
}

/** Who makes which of the formats that were asked for; those that the files are of already are made by nobody. */
export function planConversions(
  files: readonly LocalFile[],
  formats: readonly string[],
  hasDocument: boolean,
): ConversionPlan {
  const from = READABLE_FORMATS.map((format) => files.find((file) => file.format === format)).find(Boolean);
  const missing = [...new Set(formats)].filter((format) => !files.some((file) => file.format === format));
  const here = WRITABLE_FORMATS.filter(
    (format) => missing.includes(format) && from !== undefined && (format !== 'onnx' || hasDocument),
  );
  return { here, from, there: missing.filter((format) => !(here as readonly string[]).includes(format)) };
}

/**
 * Makes what can be made here.
 *
 * @returns the files, and why the others could not be made, by format
 * @throws OctomilError whatever `convertFile` throws but `conversion_failed`
 */
export async function convertHere(
  plan: ConversionPlan,
  documentPath: string | undefined,
  folder: string,
): Promise<{ files: LocalFile[]; failed: Map<string, string> }> {
  const files: LocalFile[] = [];
  const failed = new Map<string, string>();
  const { from } = plan;
  for (const to of from === undefined ? [] : plan.here) {
    const stem = basename(from?.path ?? '').replace(/\.[^.]*$/, '');
    const outputPath = join(folder, `${stem}.${FORMAT_EXTENSIONS[to]}`);
    try {
      const { sizeBytes } = await convertFile({
        inputPath: from?.path ?? '',
        to,
        outputPath,
        ...(documentPath === undefined ? {} : { documentPath }),
      });
      files.push({ path: outputPath, format: to, sizeBytes });
    } catch (error) {
      if (!(error instanceof OctomilError) || error.code !== 'conversion_failed') throw error;
      failed.set(to, error.reason);
    }
  }
  return { files, failed };
}
