import { create } from '@bufbuild/protobuf';
import { expect, test } from '@jest/globals';
import { type Assignment, AssignmentSchema } from '@octomil/proto';
import { AssignmentTracker } from './assignment-tracker.js';

const offer = (assignmentId: string, attempt = 1): Assignment =>
  create(AssignmentSchema, { ref: { assignmentId, attempt } });
const ids = (assignments: Assignment[]): string[] =>
  assignments.map(({ ref }) => `${ref?.assignmentId}/${ref?.attempt}`);

test('an assignment is sent again every five seconds until it is acknowledged', () => {
  const tracker = new AssignmentTracker();
  const open = [offer('a')];
  expect(ids(tracker.toPush(open, 0))).toEqual(['a/1']);
  expect(ids(tracker.toPush(open, 4999))).toEqual([]);
  expect(ids(tracker.toPush(open, 5000))).toEqual(['a/1']);
  tracker.acknowledge({ assignmentId: 'a', attempt: 1 });
  expect(ids(tracker.toPush(open, 60_000))).toEqual([]);
});

test('a new attempt is sent at once, and an acknowledgement of the older one says nothing about it', () => {
  const tracker = new AssignmentTracker();
  tracker.toPush([offer('a')], 0);
  tracker.acknowledge({ assignmentId: 'a', attempt: 1 });
  expect(ids(tracker.toPush([offer('a', 2)], 1))).toEqual(['a/2']);
  tracker.acknowledge({ assignmentId: 'a', attempt: 1 });
  expect(ids(tracker.toPush([offer('a', 2)], 6000))).toEqual(['a/2']);
});

test('what is finished does not come back with a look from before', () => {
  const tracker = new AssignmentTracker();
  tracker.toPush([offer('a')], 0);
  tracker.finish({ assignmentId: 'a', attempt: 1 });
  expect([ids(tracker.toPush([offer('a')], 10_000)), tracker.busy]).toEqual([[], false]);
  expect(ids(tracker.toPush([offer('a', 2)], 10_000))).toEqual(['a/2']);
});

test('what the agent holds beyond the open ones is doubtful, except while its result is being taken', () => {
  const tracker = new AssignmentTracker();
  tracker.toPush([offer('a'), offer('b')], 0);
  tracker.acknowledge({ assignmentId: 'c', attempt: 3 });
  expect(tracker.doubtful([offer('a'), offer('b', 2)]).map(({ assignmentId }) => assignmentId)).toEqual(['b', 'c']);
  tracker.submitting({ assignmentId: 'c', attempt: 3 }, true);
  expect(tracker.doubtful([offer('a')]).map(({ assignmentId }) => assignmentId)).toEqual(['b']);
});

test('an agent that claims ever more assignments does not fill the memory', () => {
  const tracker = new AssignmentTracker();
  for (let index = 0; index < 100_000; index++) tracker.acknowledge({ assignmentId: `made-up-${index}`, attempt: 1 });
  expect(tracker.doubtful([]).length).toBeLessThanOrEqual(1024);
  // What is really there to do is still sent.
  expect(ids(tracker.toPush([offer('a')], 0))).toEqual(['a/1']);
});
