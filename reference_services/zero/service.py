"""The service zero: its messages on one side, `Privacy` on the other."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from meshkit import Call, CUService, InvalidArgument, every, resource, rpc
from reference_services._gen.contextunity.zero.v1 import zero_pb2 as pb
from reference_services.master_key import master_key
from reference_services.zero.config import ZeroConfig
from reference_services.zero.detectors import DEFAULT_CONFIDENCE, REGIONS
from reference_services.zero.findings import DETECTABLE, Finding, Kind
from reference_services.zero.masking import Privacy, Search
from reference_services.zero.opening import open_vault
from reference_services.zero.sealing import Master

MAX_TEXT_BYTES = 256 * 1024
"""Longest text to mask or scan, in bytes of UTF-8."""

MAX_MASKED_BYTES = 2 * 1024 * 1024
"""Longest text to unmask: masking makes texts longer."""

KEY_FILE = "zero-master-key"
"""Name of the file in the state folder that holds the master key where none is configured."""

_MAX_KINDS = 32
_SESSION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SWEEP_BATCH, _SWEEP_BATCHES = 50, 200

_WIRE_OF = {
    Kind.EMAIL: pb.PII_KIND_EMAIL,
    Kind.PHONE: pb.PII_KIND_PHONE,
    Kind.PAYMENT_CARD: pb.PII_KIND_PAYMENT_CARD,
    Kind.IBAN: pb.PII_KIND_IBAN,
    Kind.IP_ADDRESS: pb.PII_KIND_IP_ADDRESS,
    Kind.PLACEHOLDER_TEXT: pb.PII_KIND_PLACEHOLDER_TEXT,
}
_KIND_OF = {_WIRE_OF[kind]: kind for kind in DETECTABLE}


@asynccontextmanager
async def open_privacy(service: Zero) -> AsyncGenerator[Privacy, None]:
    """Opens the vault and the master key that the settings name."""
    config = service.config
    master = Master(await asyncio.to_thread(_master_key, config))
    async with open_vault(config) as vault:
        privacy = Privacy(
            vault,
            master,
            ttl=config.zero_session_ttl_s,
            max_sessions=config.zero_max_sessions,
            max_entities=config.zero_max_entities,
        )
        try:
            yield privacy
        finally:
            await asyncio.to_thread(privacy.close)


def _master_key(config: ZeroConfig) -> bytes:
    return master_key(config, "ZERO_MASTER_KEY", config.zero_master_key, KEY_FILE)


class Zero(CUService, contract=pb.DESCRIPTOR.services_by_name["ZeroService"], port=50054):
    """Takes personal data out of texts, and puts them back."""

    config: ZeroConfig
    privacy = resource(open_privacy, check=Privacy.check)

    @rpc(permission="zero:mask", timeout=10.0)
    async def anonymize(self, request: pb.AnonymizeRequest, call: Call) -> pb.AnonymizeResponse:
        """Replaces personal data in a text by placeholders of a session."""
        _check_text(request.text, MAX_TEXT_BYTES)
        if request.session_id:
            _check_session(request.session_id)
        masked = await self.privacy.mask(
            call.tenant,
            request.text,
            request.session_id,
            self._search(request.options),
            keep_placeholders=request.keep_placeholders,
        )
        response = pb.AnonymizeResponse(
            text=masked.text,
            session_id=masked.session_id,
            entities=map(_entity, masked.findings, masked.placeholders),
        )
        if masked.expires_at is not None:
            response.expires_at.FromMilliseconds(int(masked.expires_at * 1000))
        return response

    @rpc(permission="zero:unmask", timeout=10.0)
    async def deanonymize(self, request: pb.DeanonymizeRequest, call: Call) -> pb.DeanonymizeResponse:
        """Puts the values back in the place of a session's placeholders."""
        _check_text(request.text, MAX_MASKED_BYTES)
        _check_session(request.session_id)
        unmasked = await self.privacy.unmask(call.tenant, request.text, request.session_id)
        return pb.DeanonymizeResponse(
            text=unmasked.text, restored=unmasked.restored, unresolved=unmasked.unresolved
        )

    @rpc(permission="zero:mask", timeout=10.0)
    async def scan_pii(self, request: pb.ScanPIIRequest, call: Call) -> pb.ScanPIIResponse:
        """Finds personal data in a text and stores nothing."""
        _check_text(request.text, MAX_TEXT_BYTES)
        findings = await self.privacy.scan(request.text, self._search(request.options))
        return pb.ScanPIIResponse(entities=map(_entity, findings))

    @rpc(permission="zero:destroy")
    async def destroy_session(
        self, request: pb.DestroySessionRequest, call: Call
    ) -> pb.DestroySessionResponse:
        """Destroys a session's key and values."""
        _check_session(request.session_id)
        return pb.DestroySessionResponse(
            destroyed=await self.privacy.destroy(call.tenant, request.session_id)
        )

    @rpc(permission="zero:stats")
    async def stats(self, request: pb.StatsRequest, call: Call) -> pb.StatsResponse:
        """Counts what is kept for the calling tenant."""
        holdings = await self.privacy.holdings(call.tenant)
        response = pb.StatsResponse(
            sessions=holdings.sessions,
            entities=sum(holdings.entities.values()),
            kinds=[
                pb.KindCount(kind=_WIRE_OF[Kind(label)], entities=count)
                for label, count in sorted(holdings.entities.items())
            ],
        )
        response.session_ttl.FromMilliseconds(int(self.config.zero_session_ttl_s * 1000))
        return response

    @every(seconds=30)
    async def sweep(self) -> None:
        """Deletes what has expired."""
        if swept := await self.privacy.sweep(batch=_SWEEP_BATCH, batches=_SWEEP_BATCHES):
            self.log.info("expired sessions deleted", sessions=swept)

    def _search(self, options: pb.DetectionOptions) -> Search:
        region = options.region.upper() or self.config.zero_default_region
        if region and region not in REGIONS:
            raise InvalidArgument(
                "region is no country with telephone numbers; give two letters of ISO 3166-1, such as DE",
                reason="REGION_UNKNOWN",
            )
        if not 0 <= options.min_confidence <= 1:
            raise InvalidArgument("min_confidence is not within 0 to 1", reason="CONFIDENCE_INVALID")
        return Search(_kinds(options), region, options.min_confidence or DEFAULT_CONFIDENCE)


def _kinds(options: pb.DetectionOptions) -> frozenset[Kind]:
    if len(options.kinds) > _MAX_KINDS:
        raise InvalidArgument(f"at most {_MAX_KINDS} kinds", reason="TOO_MANY_KINDS", limit=_MAX_KINDS)
    unknown = sorted({int(kind) for kind in options.kinds if kind not in _KIND_OF})
    if unknown:
        raise InvalidArgument(
            f"kinds that cannot be looked for: {', '.join(map(str, unknown))}; leave empty for all",
            reason="KIND_UNKNOWN",
        )
    return frozenset(_KIND_OF[kind] for kind in options.kinds) or DETECTABLE


def _check_text(text: str, limit: int) -> None:
    if len(text) > limit or (len(text) * 4 > limit and len(text.encode()) > limit):
        raise InvalidArgument(
            f"the text is longer than {limit} bytes of UTF-8; split it, and use one session for its parts",
            reason="TEXT_TOO_LONG",
            limit=limit,
        )


def _check_session(session_id: str) -> None:
    if not _SESSION_ID.fullmatch(session_id):
        raise InvalidArgument(
            "session_id is not 1 to 128 letters, digits, dots, underscores, colons and hyphens",
            reason="SESSION_ID_INVALID",
        )


def _entity(finding: Finding, placeholder: str = "") -> pb.Entity:
    return pb.Entity(
        kind=_WIRE_OF[finding.kind],
        start=finding.start,
        end=finding.end,
        placeholder=placeholder,
        confidence=finding.confidence,
    )
