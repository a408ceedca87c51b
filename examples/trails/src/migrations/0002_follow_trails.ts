/** What pages say of themselves, who follows a trail, and what followers were told. */
import { Effect } from "effect"
import { SqlClient } from "effect/sql"

export default Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient

  // Nobody looks for what pages say that were captured before this step.
  yield* sql`
    alter table pages
      add column description text
        constraint pages_description_check check (description <> '' and char_length(description) <= 1000),
      add column metadata text not null default 'missing'
        constraint pages_metadata_check check (metadata in ('pending', 'fetched', 'missing')),
      add column fetched_at timestamptz`
  yield* sql`alter table pages alter column metadata set default 'pending'`

  yield* sql`
    create table followers (
      trail_id uuid not null constraint followers_trail_fkey references trails (id),
      user_id integer not null constraint followers_user_fkey references users (id),
      followed_at timestamptz not null,
      constraint followers_pkey primary key (trail_id, user_id)
    )`
  yield* sql`create index followers_user_id_idx on followers (user_id)`

  yield* sql`
    create table notifications (
      id integer generated always as identity primary key,
      user_id integer not null constraint notifications_user_fkey references users (id),
      page_id integer not null constraint notifications_page_fkey references pages (id),
      created_at timestamptz not null,
      read_at timestamptz,
      constraint notifications_user_page_key unique (user_id, page_id)
    )`
  yield* sql`create index notifications_user_id_idx on notifications (user_id, id desc)`
  yield* sql`create index notifications_created_at_idx on notifications (created_at)`

  yield* sql`
    create table digests (
      user_id integer not null constraint digests_user_fkey references users (id),
      day date not null,
      pages integer not null,
      trails integer not null,
      created_at timestamptz not null,
      constraint digests_pkey primary key (user_id, day)
    )`
})
