// Searches through the API of a worker, in the name of the user who calls: docs/deployment.md, "Supabase Edge Function".
const env = (name: string, otherwise: string) => Deno.env.get(name) ?? otherwise;
const url = `${env("WORKER_URL", "http://127.0.0.1:8080")}/search`;
const headers = {
  "Access-Control-Allow-Origin": env("ALLOWED_ORIGIN", "*"),
  "Access-Control-Allow-Headers": "authorization, apikey, content-type, x-client-info",
  "Content-Type": "application/json",
};
const refuse = (status: number, message: string) => Response.json({ error: { message } }, { status, headers });

Deno.serve(async (request) => {
  if (request.method === "OPTIONS") return new Response(null, { headers });
  const token = request.headers.get("Authorization");
  if (!token) return refuse(401, "Sign in: the request has no token of a user.");
  const search = { method: "POST", headers: { Authorization: token }, signal: AbortSignal.timeout(30_000) };
  try {
    const answer = await fetch(url, { ...search, body: await request.text() });
    return new Response(answer.body, { status: answer.status, headers });
  } catch (problem) {
    console.error(`${url}: ${problem}`);
    return refuse(503, "The search cannot be reached. Try again.");
  }
});
