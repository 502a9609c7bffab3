// Embeds what is due, with no host but the project itself. docs/apps.md says how to deploy and call it.
import { createClient } from "npm:@supabase/supabase-js@2";

type Job = { id: number; target_id: number; lease: string; status: string; model: string; document_prompt: string | null;
             content: string; content_hash: string; dimensions: number | null };
const fullModel = (job: Job) => job.model + (job.document_prompt ? `#${job.document_prompt}` : "");
class Rejected extends Error {} // the text is to blame, and not the provider

const env = (name: string, otherwise = "") => Deno.env.get(name) ?? otherwise;
const key = JSON.parse(env("SUPABASE_SECRET_KEYS", "{}")).default ?? env("SUPABASE_SERVICE_ROLE_KEY");
const database = createClient(env("SUPABASE_URL"), key, { auth: { persistSession: false } });
const held = (jobs: Job[]) => ({ ids: jobs.map((job) => job.id), leases: jobs.map((job) => job.lease) });
const fail = (jobs: Job[], reason: string, message: string, retry_in?: string) =>
  database.rpc("fail_embeddings", { ...held(jobs), class: reason, message, retry_in }).throwOnError();

async function embed(jobs: Job[]): Promise<string[]> {
  const model = jobs[0].model.replace("openai:", ""), prompt = jobs[0].document_prompt ?? "";
  const dimensions = model.startsWith("text-embedding-3") && jobs[0].dimensions || undefined;
  const answer = await fetch(env("OPENAI_BASE_URL", "https://api.openai.com/v1") + "/embeddings", {
    method: "POST", signal: AbortSignal.timeout(10_000),
    headers: { Authorization: `Bearer ${env("OPENAI_API_KEY")}`, "Content-Type": "application/json" },
    body: JSON.stringify({ model, dimensions, input: jobs.map((job) => prompt + job.content) }),
  });
  if ([400, 413, 422].includes(answer.status)) throw new Rejected(await answer.text());
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
  const { data }: { data: { index: number; embedding: number[] }[] } = await answer.json();
  return data.sort((one, other) => one.index - other.index).map((item) => JSON.stringify(item.embedding));
}

async function complete(jobs: Job[]): Promise<void> {
  try {
    const made = { vectors: await embed(jobs), hashes: jobs.map((job) => job.content_hash), model: fullModel(jobs[0]) };
    const { data: refused } = await database.rpc("complete_embeddings", { ...held(jobs), ...made }).throwOnError();
    for (const { id, reason } of refused) if (reason === "changed")
      await fail(jobs.filter((job) => job.id === id), reason, "the text changed without its trigger", "1 minute");
  } catch (problem) {
    if (!(problem instanceof Rejected)) throw problem;
    if (jobs.length === 1) return void await fail(jobs, "rejected", problem.message);
    const half = jobs.length >> 1; // a text that is rejected does not hold up its neighbours
    for (const part of [jobs.slice(0, half), jobs.slice(half)]) await complete(part);
  }
}

Deno.serve(async (request) => {
  if (request.headers.get("apikey") !== key) return new Response("wrong apikey", { status: 401 });
  const others = await database.from("embedding_targets").select("id").not("model", "like", "openai:%").throwOnError();
  const claim = { worker: `edge-${crypto.randomUUID()}`, except_targets: others.data.map((target): number => target.id),
                  default_model: env("EMBEDDING_MODEL", "openai:text-embedding-3-small") };
  const summary = { claimed: 0, troubles: [] as string[] };
  for (let batch = 0; batch < 5; batch++) { // more do not fit into the processor time of a function
    const { data: taken } = await database.rpc("claim_embeddings", claim).throwOnError();
    if (taken.length === 0) break;
    const jobs: Job[] = taken.filter((job: Job) => job.status === "processing");
    const trouble = jobs.length ? await complete(jobs).then(() => undefined, String) : undefined;
    if (trouble) summary.troubles.push(trouble), claim.except_targets.push(jobs[0].target_id);
    await database.rpc("release_embeddings", { ...held(jobs), retry_in: "1 minute", reason: trouble }).throwOnError();
    summary.claimed += jobs.length;
  }
  return Response.json(summary, { status: summary.troubles.length ? 500 : 200 });
});
