"""The embedded Postgres, the migrations, and the files of a Supabase project."""
