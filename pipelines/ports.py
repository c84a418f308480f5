"""Ports that a service of darec is about to listen on."""

import socket

from darec.common.errors import UserError


def require_free(host: str, port: int, hint: str) -> None:
    """Raises UserError if the port is in use. Otherwise another server could answer on it instead of ours."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        reason = str(error.strerror or error).partition(" (")[0]  # without the address, which follows
        raise UserError(f"cannot listen: {reason}", where=f"{host}:{port}", hint=hint) from error
