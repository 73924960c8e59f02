-- The tables of the kanban example; it may run any number of times.
create schema if not exists example_kanban;
comment on schema example_kanban is 'Made by pgcast example; drop it whenever you like.';
create table if not exists example_kanban.lists (id int primary key, name text not null);
create table if not exists example_kanban.cards (
  id    uuid primary key default gen_random_uuid(),
  list  int not null references example_kanban.lists,
  place float8 not null default extract(epoch from clock_timestamp()), -- between those of its neighbours
  title text not null
);
select pgcast.attach('example_kanban.lists', topic => 'kanban:lists'), pgcast.attach('example_kanban.cards', topic => 'kanban:cards');
insert into example_kanban.lists values (1, 'To do'), (2, 'Doing'), (3, 'Done') on conflict do nothing;
insert into example_kanban.cards (list, place, title) select * from (values (1, 1, 'Read the concepts'), (1, 2, 'Attach a table of ours'),
  (1, 3, 'Ask the team what must be live'), (2, 1, 'Try the examples'), (3, 1, 'Start pgcast dev')) v where not exists (select from example_kanban.cards);
