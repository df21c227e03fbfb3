"""Runs Dagster's web server behind the guard, as a process of its own; `migration-assets ui` starts it."""

import argparse
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import uvicorn
from dagster_shared.cli import WorkspaceOpts

# Dagster's own command builds its server from these, and offers no way to add a guard. If a later version moves one of
# them, the import fails and nothing is served, rather than served without the guard.
from dagster_webserver.cli import (
    DEFAULT_DB_STATEMENT_TIMEOUT,
    DEFAULT_POOL_MAX_OVERFLOW,
    DEFAULT_POOL_RECYCLE,
    WorkspaceProcessContext,  # pyright: ignore[reportPrivateImportUsage]
    workspace_opts_to_load_target,  # pyright: ignore[reportPrivateImportUsage]
)
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from graphql import ASTValidationRule, GraphQLError, OperationDefinitionNode, OperationType
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from migration_assets.web.guard import Guard, Origins

_POLL_MILLISECONDS = 2000
_GOODBYE_SECONDS = 5


class _NoMutation(ASTValidationRule):
    """A GraphQL validation rule that refuses mutations."""

    def enter_operation_definition(self, node: OperationDefinitionNode, *_: Any) -> None:
        if node.operation is OperationType.MUTATION:
            self.report_error(GraphQLError("This page is read-only: it was started with --read-only.", node))


class GuardedWebserver(DagsterWebserver[Any, Any]):
    """Dagster's server, with the guard as its outermost layer.

    Args:
        context: Dagster's workspace.
        origins: The origins from which requests are accepted.
        read_only: Whether all mutations are refused, whatever Dagster's own permissions are.
    """

    def __init__(self, context: WorkspaceProcessContext, origins: Origins, *, read_only: bool) -> None:
        self._origins = origins
        self._read_only = read_only
        super().__init__(context, live_data_poll_rate=_POLL_MILLISECONDS)

    def build_middleware(self) -> list[Middleware]:
        """The guard as the outermost layers, then Dagster's own."""
        return [
            Middleware(TrustedHostMiddleware, allowed_hosts=self._origins.hosts, www_redirect=False),
            Middleware(Guard, origins=self._origins),
            *super().build_middleware(),
        ]

    def build_graphql_validation_rules(self) -> Collection[type[ASTValidationRule]]:
        """Dagster's rules, and the one against mutations where the page is read-only."""
        rules = super().build_graphql_validation_rules()
        return [*rules, _NoMutation] if self._read_only else rules


def serve(host: str, port: int, workspace: Path, origins: Origins, *, read_only: bool) -> None:
    """Serve until SIGINT or SIGTERM. DAGSTER_HOME and the rest of the environment must be set."""
    with dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(DEFAULT_DB_STATEMENT_TIMEOUT, DEFAULT_POOL_RECYCLE, DEFAULT_POOL_MAX_OVERFLOW)
        with WorkspaceProcessContext(
            instance,
            version=__version__,
            read_only=read_only,
            workspace_load_target=workspace_opts_to_load_target(WorkspaceOpts(workspace=[str(workspace)])),
            code_server_log_level="warning",
        ) as context:
            server = GuardedWebserver(context, origins, read_only=read_only)
            app = server.create_asgi_app()  # pyright: ignore[reportUnknownMemberType]
            uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=_GOODBYE_SECONDS)


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--origin", action="append", default=[], help="further origins; repeatable")
    parser.add_argument("--read-only", action="store_true")
    given = parser.parse_args()
    # uvicorn stops at SIGTERM and then raises it again. As an interrupt it lets the contexts of Dagster close.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        origins = Origins.of(given.host, given.port, tuple(given.origin))
        serve(given.host, given.port, given.workspace, origins, read_only=given.read_only)


if __name__ == "__main__":
    main()
