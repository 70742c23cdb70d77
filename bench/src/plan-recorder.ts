import type { OpenDatabase } from '@octomil/coordinator';
import type pg from 'pg';

interface Statement {
  readonly sql: string;
  readonly parameters: readonly unknown[];
}

/** Notes the statements of a database handle, and has PostgreSQL say how it runs them. */
export class PlanRecorder {
  /** Use it in place of the one given. */
  readonly database: OpenDatabase;
  #statements: Statement[] = [];

  constructor(database: OpenDatabase) {
    const { kysely } = database;
    const noting = kysely.withPlugin({
      transformQuery: ({ node, queryId }) => {
        const { sql, parameters } = kysely.getExecutor().compileQuery(node, queryId);
        this.#statements.push({ sql, parameters });
        return node;
      },
      transformResult: async ({ result }) => result,
    });
    this.database = { ...database, kysely: noting };
  }

  /** Markdown: each statement of `work` once, with its plan and times. */
  async plansOf(title: string, client: pg.Client, work: () => Promise<unknown>): Promise<string> {
    // Twice: the second time everything that it reads is in memory, as on a server at work.
    await work();
    this.#statements = [];
    await work();
    const different = [...new Map(this.#statements.map((statement) => [statement.sql, statement])).values()];
    const parts = [`## ${title}`];
    for (const { sql, parameters } of different) {
      const { rows } = await client.query<{ 'QUERY PLAN': string }>(`explain (analyze, buffers) ${sql}`, [
        ...parameters,
      ]);
      const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
      parts.push(`\`\`\`sql\n${tidy(sql)}\n\`\`\``, `\`\`\`\n${plan}\n\`\`\``);
    }
    return parts.join('\n\n');
  }
}

function tidy(sql: string): string {
  return sql
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
    .join('\n');
}
