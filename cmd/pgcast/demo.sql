-- The schema of pgcast dev's demo: a chat and a board. It may run any number of times.

create schema if not exists demo;
comment on schema demo is 'Made by pgcast dev to have something to look at; drop it whenever you like.';

create table if not exists demo.rooms (
  id   int primary key,
  name text not null unique
);
insert into demo.rooms values (1, 'Lobby'), (2, 'Engineering'), (3, 'Lunch') on conflict do nothing;

create table if not exists demo.messages (
  id         bigint generated always as identity primary key,
  room_id    int not null references demo.rooms on delete cascade,
  author     text not null,
  body       text not null,
  created_at timestamptz not null default now(),
  edited_at  timestamptz
);
create index if not exists messages_room on demo.messages (room_id, id);

create table if not exists demo.boards (
  id   int primary key,
  name text not null unique
);
insert into demo.boards values (1, 'Release 1.0') on conflict do nothing;

create table if not exists demo.columns (
  id       int primary key,
  board_id int not null references demo.boards on delete cascade,
  name     text not null,
  place    int not null
);
insert into demo.columns values (1, 1, 'To do', 1), (2, 1, 'Doing', 2), (3, 1, 'Review', 3), (4, 1, 'Done', 4)
  on conflict do nothing;

create table if not exists demo.cards (
  id        bigint generated always as identity primary key,
  board_id  int not null references demo.boards on delete cascade,
  column_id int not null references demo.columns,
  title     text not null,
  assignee  text,
  points    int not null default 1,
  moved_at  timestamptz not null default now()
);

-- With the old values, so that whoever looks can see what has changed. What somebody
-- captures from the WAL to try that stays so.
select pgcast.attach(d.rel::regclass, topic => d.topic, old => d.old)
from (values ('demo.rooms', 'rooms', false), ('demo.messages', 'room:{room_id}', true),
             ('demo.columns', 'columns:{board_id}', false), ('demo.cards', 'board:{board_id}', true)) d (rel, topic, old)
where not exists (select from pgcast.attachment a where a.relation = d.rel::regclass and a.via = 'wal');

-- After attaching, so that the log tells it too.
insert into demo.cards (board_id, column_id, title, assignee, points)
  select * from (values
    (1, 1, 'Write the release notes', null, 2), (1, 1, 'Dark mode for the settings page', null, 5),
    (1, 1, 'Export as CSV', null, 3),           (1, 1, 'Update the screenshots', null, 1),
    (1, 2, 'Upgrade the database', 'eva', 8),   (1, 2, 'Fix the flaky test', 'bob', 3),
    (1, 3, 'Search by author', 'chloe', 5),     (1, 4, 'Rotate the certificates', 'farid', 2)) v
  where not exists (select from demo.cards);
insert into demo.messages (room_id, author, body)
  select * from (values (1, 'ann', 'Good morning!'), (2, 'dmitri', 'The build is green again.'), (3, 'eva', 'Soup or salad?')) v
  where not exists (select from demo.messages);
