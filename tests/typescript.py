"""TypeScript as an app or an Edge Function has it: checked by tsc, run by Node.js.

run_typescript(source, folder, "await main();", SUPABASE_URL=project.url)
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.supabase_project import PARTS, run_node

CLIENT = "npm:@supabase/supabase-js@2"  # what Deno calls it
DENO = """
declare const Deno: {
    env: { get(name: string): string | undefined };
    serve(handler: (request: Request) => Response | Promise<Response>): unknown;
};
"""
OPTIONS = {
    "strict": True,
    "skipLibCheck": True,  # supabase-js names types of Node.js, which Deno has as well
    "target": "es2022",
    "lib": ["es2023", "dom"],
    "module": "esnext",
    "moduleResolution": "bundler",
    "moduleDetection": "force",
    "types": [],
    "paths": {CLIENT: ["./node_modules/@supabase/supabase-js"]},
}


def compiled(source: str, folder: Path) -> str:
    """The JavaScript of a module, which may import supabase-js. Fails with what tsc says of it."""
    (folder / "node_modules").unlink(missing_ok=True)
    (folder / "node_modules").symlink_to(PARTS)
    (folder / "module.ts").write_text(source)
    (folder / "deno.d.ts").write_text(DENO)
    (folder / "tsconfig.json").write_text(
        json.dumps({"compilerOptions": OPTIONS, "files": ["module.ts", "deno.d.ts"]})
    )
    tsc = subprocess.run(
        ["node", str(PARTS / ".bin/tsc"), "--project", "."],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert tsc.returncode == 0, tsc.stdout
    return (folder / "module.js").read_text().replace(CLIENT, "@supabase/supabase-js")


def run_javascript(script: str, folder: Path, **environment: str) -> str:
    """Run a module that uses supabase-js. Returns what it printed."""
    # A client wants to know of WebSockets, which Node.js has since 22, and may hold on to a timer.
    script = f"globalThis.WebSocket ??= class {{}};\n{script}\nprocess.exit();"
    ran = run_node(script, folder, **environment)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr + ran.stdout
    return ran.stdout
