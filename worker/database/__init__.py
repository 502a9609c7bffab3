"""The connection to Postgres, the migrations, the embedded Postgres, and a project's files."""
