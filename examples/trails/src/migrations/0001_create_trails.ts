/** Users, their trails, and the pages in them. The names of constraints are part of the contract: services map them. */
import { Effect } from "effect"
import { SqlClient } from "effect/sql"

export default Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient

  yield* sql`
    create table users (
      id integer generated always as identity primary key,
      name text not null constraint users_name_key unique constraint users_name_check check (name <> '')
    )`

  yield* sql`
    create table trails (
      id uuid primary key,
      owner_id integer not null constraint trails_owner_fkey references users (id),
      name text not null constraint trails_name_check check (name <> '' and char_length(name) <= 80),
      status text not null default 'active' constraint trails_status_check check (status in ('active', 'paused')),
      version integer not null default 1,
      created_at timestamptz not null,
      constraint trails_owner_name_key unique (owner_id, name)
    )`

  yield* sql`
    create table pages (
      id integer generated always as identity primary key,
      trail_id uuid not null constraint pages_trail_fkey references trails (id),
      url text not null constraint pages_url_check check (url ~ '^https?://' and char_length(url) <= 2048),
      title text constraint pages_title_check check (title <> '' and char_length(title) <= 300),
      captured_at timestamptz not null,
      constraint pages_trail_url_key unique (trail_id, url)
    )`

  yield* sql`create index pages_trail_id_idx on pages (trail_id, id desc)`
})
