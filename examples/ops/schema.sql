create schema if not exists example_ops;
comment on schema example_ops is 'Made by pgcast example; drop it whenever you like.';
create table if not exists example_ops.services (name text primary key, team text not null, rates int[] not null, p99 int not null);
create table if not exists example_ops.incidents (id int generated always as identity primary key,
  service text not null, title text not null, opened timestamptz not null default now(), closed timestamptz);
select pgcast.attach('example_ops.services', topic => 'ops:services'), pgcast.retain('ops:log:*', max_count => 30),
  pgcast.attach('example_ops.incidents', topic => 'ops:incidents', old => true); -- a filter has to know what was open before
insert into example_ops.services select name, team, array_fill(80, array[40]), 40 from (values ('api', 'Core'), ('search', 'Core'),
  ('payments', 'Money'), ('invoices', 'Money'), ('mail', 'Growth'), ('images', 'Growth')) v (name, team) on conflict do nothing;

create or replace function example_ops.tick() returns void language plpgsql as $$ -- half a second in the life of a company
declare s text := (select name from example_ops.services order by random() limit 1); n int := ceil(random() * 6);
begin
  update example_ops.services v set rates = rates[2:] || greatest(0, rates[40] + (random() * 30 - 15 + (90 - rates[40]) * .05)::int),
    p99 = 30 + random() * 25 + 400 * (select count(*) from example_ops.incidents where service = v.name and closed is null);
  if random() < .4 then -- an event by hand, in this transaction
    perform pgcast.publish('ops:log:' || s, 'line', jsonb_build_object('level', case when n > 4 then 'error' else 'info' end,
      'text', (array['cache is warm', 'deployed', 'queue is empty', 'request took 2 s', 'connection reset by peer', 'retries used up'])[n]));
  end if;
  insert into example_ops.incidents (service, title) select s, (array['Errors above 5 %', 'Disk almost full', 'Replica lags'])[ceil(random() * 3)]
    where random() < .06 and (select count(*) from example_ops.incidents where closed is null) < 3;
  update example_ops.incidents set closed = now() where closed is null and opened < now() - interval '6 seconds' and random() < .05;
  delete from example_ops.incidents where closed < now() - interval '10 minutes';
end $$;
