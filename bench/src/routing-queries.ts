import type { Tier } from '@octomil/inference/routing';

export interface LabelledQuery {
  readonly text: string;
  /** The smallest tier whose answer one would accept. */
  readonly tier: Tier;
}

const of =
  (tier: Tier) =>
  (text: string): LabelledQuery => ({ text, tier });

/** Looked at while the rules were written. */
export const DEVELOPMENT_QUERIES: readonly LabelledQuery[] = [
  ...[
    'hi',
    'Good morning!',
    'thanks',
    'What is the capital of France?',
    'Who wrote Hamlet?',
    'How many days are in a leap year?',
    'When did World War II end?',
    'Is water wet?',
    'How do you spell necessary?',
    'What time zone is Tokyo in?',
    'What does CPU stand for?',
    'Where is the Eiffel Tower?',
    'Define photosynthesis.',
  ].map(of('fast')),
  ...[
    'Explain how vaccines work.',
    'Summarize the plot of Romeo and Juliet in two paragraphs.',
    'Translate this sentence to Spanish: the patient was discharged yesterday.',
    'What is the difference between TCP and UDP?',
    'Give me five ideas for a team-building afternoon.',
    'Rewrite this email so that it sounds more polite: send me the file today.',
    'Describe the symptoms of iron deficiency.',
    'How do I reset a forgotten password in Ubuntu?',
    'Classify the sentiment of this review: the food was cold but the staff were lovely.',
    'Why is the sky blue?',
    'List three advantages of electric cars and explain each briefly.',
    'What should I cook with chickpeas, spinach and rice?',
  ].map(of('balanced')),
  ...[
    'Write a REST API in Python',
    'Prove that the square root of 2 is irrational.',
    'Implement a lock-free queue in Rust and explain the memory orderings you use.',
    'Design a distributed rate limiter that survives the loss of a data centre.',
    'Analyze the trade-offs between federated averaging and split learning for hospitals, with references.',
    'Write a 1500-word essay comparing Kant and Mill on lying, with counter-arguments.',
    'Refactor this class into smaller ones and write unit tests for each of them.',
    'Derive the gradient of the softmax cross-entropy loss step by step.',
    'Debug this function: it deadlocks when two threads call close at the same time.',
    'Draft a migration plan from a monolith to microservices with zero downtime.',
    'Create a comprehensive study protocol for a randomised trial of a sepsis alert.',
    'Build a React component with TypeScript for a sortable, paginated table.',
  ].map(of('quality')),
];

/** Written before the rules were run on anything, and never used to change them. */
export const HELD_OUT_QUERIES: readonly LabelledQuery[] = [
  ...[
    'hello there',
    'ok thank you',
    'Who painted the Mona Lisa?',
    'What is the chemical symbol for gold?',
    'How tall is Mount Everest?',
    'What day comes after Tuesday?',
    'Are whales mammals?',
    'Name the largest planet in the solar system.',
    'What is a synonym for happy?',
    'When is the summer solstice?',
  ].map(of('fast')),
  ...[
    'Explain the difference between a virus and a bacterium to a ten-year-old.',
    'Suggest a polite way to decline a meeting invitation.',
    'How does a heat pump work?',
    'Summarize the benefits of regular exercise for older adults.',
    'Extract the dates and amounts from this text: paid 30 euros on May 2 and 45 on June 9.',
    'What are the side effects of ibuprofen?',
    'Outline a weekly training schedule for a beginner runner.',
    'Translate "where is the nearest pharmacy" into German, French and Italian.',
    'Should I use a Roth or a traditional retirement account?',
    'Write a short thank-you note to a colleague.',
  ].map(of('balanced')),
  ...[
    'Write a TypeScript parser for arithmetic expressions with operator precedence and error recovery.',
    'Prove by induction that the sum of the first n odd numbers is n squared.',
    'Compare Raft and Paxos in depth: liveness, reconfiguration and failure handling.',
    'Design the database schema and the indexes for a hospital appointment system with strict audit requirements.',
    'Analyze this business case and write a detailed proposal with risks, costs and a roadmap.',
    'Optimize this SQL query that joins five tables and takes forty seconds.',
    'Derive the closed-form solution of ridge regression and discuss its bias and variance.',
    'Write a complete Terraform module for a private Kubernetes cluster with autoscaling.',
    'Critique the statistical methods of a study that reports p = 0.049 after testing twelve endpoints.',
    'Implement Dijkstra in Haskell and argue why it is correct.',
  ].map(of('quality')),
];
