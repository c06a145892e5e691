"""The command line. Owns the commands, their options and what is printed; app.py and dev.py do the work."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import typer

from billing.errors import BillingError
from realtime.broker.address import BadRedisUrl
from realtime.config import Settings, SettingsError, load
from realtime.embedded import ADDRESS_FILE, EngineError, Engines
from realtime.logs import configure
from realtime.migrate import MigrationError, ensure_database, migrate

HELP = "Signalling and per-minute billing for paid calls. Settings are TALKMETER_* variables too: docs/settings.md."

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)

DataDir = Annotated[str | None, typer.Option(help="Folder of the signing key and of the embedded engines (data).")]
DatabaseUrl = Annotated[str | None, typer.Option(help="PostgreSQL 15 or newer; without it one is embedded.")]
RedisUrl = Annotated[str | None, typer.Option(help="Redis 7 or Valkey; without it one is embedded.")]


def run() -> None:
    """Run the command; a failure that an operator can mend is one line and exit status 2."""
    try:
        app()
    except (SettingsError, EngineError, MigrationError, BillingError, BadRedisUrl) as exc:
        print(f"talkmeter: {exc}", file=sys.stderr)
        raise SystemExit(2) from None
    except (OSError, asyncpg.PostgresError) as exc:  # a port in use, a database that is away or says no
        print(f"talkmeter: {type(exc).__name__}: {exc}", file=sys.stderr)
        raise SystemExit(2) from None


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port (8080); 0 takes a free one.")] = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    redis_url: RedisUrl = None,
    workers: Annotated[int | None, typer.Option(help="Hub processes behind the port (1).")] = None,
    dev: Annotated[bool, typer.Option("--dev", help="Open the demo, tokens and free coins; loopback only.")] = False,
    dev_force: Annotated[bool, typer.Option("--dev-force", help="Allow --dev off loopback.")] = False,
) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    settings = load(
        os.environ,
        host=host,
        port=port,
        data_dir=data_dir,
        database_url=database_url,
        redis_url=redis_url,
        workers=workers,
        dev=dev or None,
        dev_force=dev_force or None,
    )
    configure(settings.log_level, settings.log_format)
    from realtime.serve import serve as serve_now

    raise SystemExit(serve_now(settings))


@app.command()
def token(
    user: Annotated[str, typer.Option(help="External id of the user.")],
    name: Annotated[str, typer.Option(help="Display name.")] = "",
    host: Annotated[bool, typer.Option("--host", help="Give the user the role host, and a profile.")] = False,
    coins: Annotated[int, typer.Option(min=0, max=1_000_000, help="Top the wallet up to so many coins.")] = 0,
    price: Annotated[int, typer.Option(min=0, help="A host's price per pulse, in coins.")] = 0,
    pulse_ms: Annotated[int, typer.Option(min=0, help="A host's pulse, in milliseconds.")] = 0,
    ttl_s: Annotated[int, typer.Option(min=1, max=31_536_000, help="Life of the token.")] = 86_400,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Print a development token for a user, who is made, and given coins, when need be."""
    settings = load(os.environ, data_dir=data_dir, database_url=database_url)
    configure("warning", settings.log_format)
    from realtime.dev import DevGrant, mint_token

    grant = DevGrant(user=user, name=name, host=host, coins=coins, price_coins=price, pulse_ms=pulse_ms)
    print(_with_database(settings, lambda url: mint_token(settings, url, grant, ttl_s=ttl_s)))


@app.command()
def audit(
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Prove the books; exit status 1 when they are wrong."""
    settings = load(os.environ, data_dir=data_dir, database_url=database_url)
    configure("warning", settings.log_format)
    from realtime.dev import audit_books

    report = _with_database(settings, audit_books)
    if as_json:
        print(json.dumps(report))
    else:
        for check in report["checks"]:
            state = f"{check['faults']} WRONG" if check["faults"] else "ok"
            print(f"{check['name']:28} {check['examined']:>10} rows  {state}")
        for fault in report["faults"]:
            print(f"{fault['rule']}: {fault['key']}: {fault['detail']}")
        words = "the books are right" if report["ok"] else "THE BOOKS ARE WRONG"
        print(words if report["complete"] else f"{words}, as far as the time allowed to look")
    raise SystemExit(0 if report["ok"] else 1)


@app.command()
def archive(
    month: Annotated[str, typer.Argument(help="The closed month, as 2026-01.")],
    folder: Annotated[Path, typer.Option(help="Where the file goes; keep it as long as the law says.")],
    drop: Annotated[bool, typer.Option("--drop", help="Then drop the month from the database.")] = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Export a closed month of charges with a checksum, and drop it when asked."""
    settings = load(os.environ, data_dir=data_dir, database_url=database_url)
    configure("warning", settings.log_format)
    from realtime.dev import archive_charges

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    print(_with_database(settings, lambda url: archive_charges(url, month, folder.resolve(), drop=drop)))


@app.command("migrate")
def migrate_command(data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Bring the database to this version's schema."""
    settings = load(os.environ, data_dir=data_dir, database_url=database_url)

    async def apply(url: str) -> list[str]:
        return await migrate(settings.migrate_url or url)

    for file in _with_database(settings, apply):
        print(file)


@app.command()
def docs(folder: Annotated[Path, typer.Option(help="Where to write.")] = Path("docs")) -> None:
    """Write the documents that are made from the code: protocol, asyncapi, settings, calls, tariffs."""
    from realtime.documents import write

    for path in write(folder):
        print(path)


@app.command("worker", hidden=True)
def worker(role: str, listen_fd: int = -1, ready_fd: int = -1) -> None:
    """One process of `serve --workers N`; started by its parent, with the settings in its environment."""
    settings = load(os.environ)
    configure(settings.log_level, settings.log_format)
    from realtime.serve import work

    raise SystemExit(work(settings, role, listen_fd, ready_fd))


def _with_database(settings: Settings, work: Callable[[str], Awaitable[Any]]) -> Any:
    """Run `work` on the settings' database: by URL, in a running server's embedded engine, or in one started for it."""
    if settings.database_url:
        return asyncio.run(_call(work, settings.migrate_url or settings.database_url))
    running = settings.data_path / ADDRESS_FILE
    if running.exists():
        url = json.loads(running.read_text())["database_url"]
        with contextlib.suppress(OSError):
            return asyncio.run(_call(work, url))
    engines = Engines.start(settings.data_path, valkey=False, postgres_bin=settings.postgres_bin)
    try:
        asyncio.run(_prepare(engines.database_url))
        return asyncio.run(_call(work, engines.database_url))
    finally:
        engines.stop()


async def _call(work: Callable[[str], Awaitable[Any]], url: str) -> Any:
    return await work(url)


async def _prepare(url: str) -> None:
    await ensure_database(url)
    await migrate(url)
