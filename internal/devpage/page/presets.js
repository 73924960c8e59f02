// What the SQL box and the shell tab suggest, with the demo's tables and without them.

const read = {
  name: 'Read the log',
  sql: `-- What arrives on the right is also a table.
select position, topic, seq, event, data
from pgcast.history
order by position desc
limit 20;`,
}

export const demo = [
  {
    name: 'Chat message',
    sql: `insert into demo.messages (room_id, author, body)
values (1, 'you', 'Hello from the page');`,
  },
  {
    name: 'Move a card',
    sql: `update demo.cards
set column_id = column_id % 4 + 1, moved_at = now()
where id = (select id from demo.cards order by random() limit 1)
returning id, title, column_id;`,
  },
  {
    name: '500 rows',
    sql: `insert into demo.messages (room_id, author, body)
select 1 + n % 3, 'bulk', 'Row ' || n || ' of 500'
from generate_series(1, 500) n;`,
  },
  {
    name: 'Update',
    sql: `update demo.messages
set body = upper(body), edited_at = now()
where id = (select max(id) from demo.messages)
returning id, author, body;`,
  },
  {
    name: 'Delete',
    sql: `delete from demo.messages
where id = (select max(id) from demo.messages)
returning *;`,
  },
  {
    name: 'publish()',
    sql: `-- An event without a table, in your own transaction.
select pgcast.publish('room:1', 'typing', '{"by": "you"}');`,
  },
  {
    name: 'Transaction',
    sql: `-- All of it arrives, in this order, or none.
begin;
insert into demo.messages (room_id, author, body)
values (2, 'you', 'I take the next card.');
update demo.cards set assignee = 'you'
where id = (select max(id) from demo.cards);
select pgcast.publish('team', 'cheer', '"you"');
commit;`,
  },
  {
    name: 'Rolled back',
    sql: `-- Nothing is committed, so nothing arrives.
begin;
insert into demo.messages (room_id, author, body)
values (1, 'you', 'Nobody will ever see this');
rollback;`,
  },
  {
    name: 'Uncaptured',
    sql: `-- Committed, but left out of the log on purpose.
begin;
set local pgcast.capture = off;
update demo.cards set points = points + 1;
commit;`,
  },
  read,
]

export const notes = [
  {
    name: 'A table',
    sql: `create table if not exists notes (
  id   int generated always as identity primary key,
  body text not null,
  done boolean not null default false
);
select pgcast.attach('notes');`,
  },
  { name: 'Insert', sql: `insert into notes (body) values ('Hello from the page') returning *;` },
  { name: 'Update', sql: `update notes set done = not done\nwhere id = (select max(id) from notes)\nreturning *;` },
  { name: 'Delete', sql: `delete from notes where id = (select max(id) from notes) returning *;` },
  { name: '500 rows', sql: `insert into notes (body)\nselect 'Row ' || n || ' of 500' from generate_series(1, 500) n;` },
  { name: 'publish()', sql: `-- An event without a table, in your own transaction.\nselect pgcast.publish('notes', 'typing', '{"by": "you"}');` },
  {
    name: 'Transaction',
    sql: `-- All of it arrives, in this order, or none.
begin;
insert into notes (body) values ('one');
insert into notes (body) values ('two');
update notes set done = true where body in ('one', 'two');
commit;`,
  },
  { name: 'Rolled back', sql: `-- Nothing is committed, so nothing arrives.\nbegin;\ninsert into notes (body) values ('Nobody will ever see this');\nrollback;` },
  read,
]

// commands for a shell: [what to type, what it does].
export function commands({ command, demo: isDemo, metrics }) {
  const [topic, insert] = isDemo
    ? ['room:*', "insert into demo.messages (room_id, author, body) values (1, 'you', 'hello')"]
    : ['notes', "insert into notes (body) values ('hello')"]
  const list = [
    [`${command} tail '${topic}'`, 'Follow topics in the terminal. Stop it, and it prints how to resume.'],
    [`${command} sql "${insert}"`, 'Run a statement, with or without psql on the machine.'],
    [`${command} publish ${isDemo ? 'room:1' : 'notes'} typing '{"by": "you"}'`, 'Add an event without a table.'],
    [`${command} attached`, 'List the tables whose writes become events.'],
  ]
  if (metrics) list.push([`curl -s ${metrics}`, 'What Prometheus would read.'])
  return list
}

export function ownTable({ command }) {
  return [
    [`${command} attach public.orders --topic 'orders:{customer_id}'`, 'From now on every write to it is an event. --print shows the SQL first.'],
    [`${command} tail 'orders:*'`, 'Watch them.'],
    [`${command} detach public.orders`, 'Take it back, without a trace.'],
  ]
}
