import type { Logger } from '@octomil/shared/runtime';

export interface LogLine {
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  readonly message: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** A log that a test can read; children write to it with their fields. */
export class RecordedLog {
  readonly lines: LogLine[] = [];
  readonly logger: Logger = this.#logger({});

  /** Messages of warnings and errors that an agent wrote. */
  complaints(agent: string): string[] {
    const bad = this.lines.filter(
      ({ level, fields }) => level !== 'debug' && level !== 'info' && fields['agent'] === agent,
    );
    return bad.map(({ message }) => message);
  }

  #logger(known: object): Logger {
    const at =
      (level: LogLine['level']) =>
      (fields: object, message: string): void => {
        this.lines.push({ level, message, fields: { ...known, ...fields } });
      };
    return {
      debug: at('debug'),
      info: at('info'),
      warn: at('warn'),
      error: at('error'),
      child: (fields) => this.#logger({ ...known, ...fields }),
    };
  }
}
