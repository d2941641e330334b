"""What the router's own messages say of runs, agents and instances."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from meshkit import Instance, State
from reference_services._gen.contextunity.router.v1 import router_pb2 as pb
from reference_services.router.model import (
    Agent,
    Citation,
    Cited,
    Completed,
    Event,
    Outcome,
    Result,
    RunStarted,
    Step,
    StepFinished,
    StepStarted,
    TextDelta,
)

_OUTCOMES = {
    Outcome.OK: pb.STEP_OUTCOME_OK,
    Outcome.FAILED: pb.STEP_OUTCOME_FAILED,
    Outcome.SKIPPED: pb.STEP_OUTCOME_SKIPPED,
}
_STATES = {
    State.STARTING: pb.INSTANCE_STATE_STARTING,
    State.SERVING: pb.INSTANCE_STATE_SERVING,
    State.DRAINING: pb.INSTANCE_STATE_DRAINING,
}


def timestamp(seconds: float) -> Timestamp:
    """A Unix time in seconds."""
    message = Timestamp()
    message.FromMicroseconds(round(seconds * 1e6))
    return message


def duration(seconds: float) -> Duration:
    """A span of seconds."""
    message = Duration()
    message.FromMicroseconds(round(seconds * 1e6))
    return message


def event_message(event: Event) -> pb.StreamAgentResponse:
    """What happened, as a stream tells it."""
    match event:
        case RunStarted(run_id, agent_id, session_id):
            started = pb.RunStarted(run_id=run_id, agent_id=agent_id, session_id=session_id)
            return pb.StreamAgentResponse(run_started=started)
        case StepStarted(name):
            return pb.StreamAgentResponse(step_started=pb.StepStarted(name=name))
        case StepFinished(step):
            return pb.StreamAgentResponse(step_finished=_step(step))
        case TextDelta(text):
            return pb.StreamAgentResponse(text_delta=pb.TextDelta(text=text))
        case Cited(citation):
            return pb.StreamAgentResponse(citation=_citation(citation))
        case Completed(result):
            return pb.StreamAgentResponse(completed=result_message(result))


def result_message(result: Result) -> pb.ExecuteAgentResponse:
    """What a run came to."""
    usage = result.usage
    return pb.ExecuteAgentResponse(
        output=result.output,
        citations=[_citation(citation) for citation in result.citations],
        steps=[_step(step) for step in result.steps],
        answered_by=result.answered_by,
        usage=pb.Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            llm_requests=usage.llm_requests,
            sources=usage.sources,
        ),
        session_id=result.session_id,
        run_id=result.run_id,
        agent_id=result.agent.agent_id,
        project=result.agent.project,
        manifest_digest=result.agent.manifest_digest,
        answered=result.answered,
    )


def agent_summary(agent: Agent, answerer: str) -> pb.AgentSummary:
    """An agent in a list."""
    return pb.AgentSummary(
        project=agent.project,
        agent_id=agent.agent_id,
        description=agent.description,
        answerer=answerer,
        privacy=pb.PRIVACY_MODE_MASK if agent.masks else pb.PRIVACY_MODE_OFF,
        manifest_digest=agent.manifest_digest,
    )


def instance_messages(instances: Iterable[Instance]) -> list[pb.ServiceInstance]:
    """Instances, as a list shows them."""
    return [
        pb.ServiceInstance(
            service=instance.service,
            instance_id=instance.instance_id,
            address=instance.address,
            zone=instance.zone,
            version=instance.version,
            weight=instance.weight,
            state=_STATES.get(instance.state, pb.INSTANCE_STATE_UNSPECIFIED),
            started_at=timestamp(instance.started_at),
            contracts=instance.contracts,
        )
        for instance in instances
    ]


def _step(step: Step) -> pb.Step:
    return pb.Step(
        name=step.name,
        service=step.service,
        instance=step.instance,
        started_at=timestamp(step.started_at),
        duration=duration(step.seconds),
        outcome=_OUTCOMES[step.outcome],
        reason=step.reason,
        note=step.note,
    )


def _citation(citation: Citation) -> pb.Citation:
    return pb.Citation(
        number=citation.number,
        cell_id=citation.source.cell_id,
        source=citation.source.origin,
        quote=citation.quote,
        score=citation.source.score,
    )
