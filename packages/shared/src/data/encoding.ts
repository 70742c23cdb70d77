/** Encodings of a CSV file that can be read. */
export const ENCODINGS = ['utf-8', 'latin-1', 'utf-16'] as const;
export type Encoding = (typeof ENCODINGS)[number];
