"""Laws of the ledger: what is held never exceeds what there is, and nobody waits for ever."""

from hypothesis import given
from hypothesis import strategies as st

from compute.capacity import Ledger, Ports
from protocol.ids import ExecutionId
from protocol.jobs import Amounts

CAPACITY = Amounts(cpu=4, memory_bytes=100, disk_bytes=100, gpu=2)
amounts = st.builds(
    Amounts,
    cpu=st.sampled_from([0, 0.1, 0.5, 1, 2, 4]),
    memory_bytes=st.integers(0, 100),
    disk_bytes=st.integers(0, 100),
    gpu=st.integers(0, 2),
)
wishes = st.lists(st.tuples(amounts, st.integers(-1, 1)), max_size=30)


def name(number: int) -> ExecutionId:
    """An execution's id."""
    return ExecutionId(f"e-{number}")


def check(ledger: Ledger) -> None:
    """What must hold at any time."""
    held = list(ledger.held.values())
    assert sum(each.amounts.cpu for each in held) <= CAPACITY.cpu + 1e-6
    assert sum(each.amounts.memory_bytes for each in held) <= CAPACITY.memory_bytes
    assert sum(each.amounts.disk_bytes for each in held) <= CAPACITY.disk_bytes
    devices = [index for each in held for index in each.gpus]
    assert len(devices) == len(set(devices))
    assert all(len(each.gpus) == each.amounts.gpu for each in held)


@given(wishes, st.data())
def test_nothing_is_given_twice_and_everyone_gets_in(
    asked: list[tuple[Amounts, int]], data: st.DataObject
) -> None:
    """In any order of asking and ending, no more is held than there is, and all who fit the node get their turn."""
    ledger = Ledger(CAPACITY, gpus=[3, 5])
    waiting = dict(enumerate(asked))
    seen: set[ExecutionId] = set()
    while waiting or ledger.held or ledger.waiting:
        if waiting and (not ledger.held or data.draw(st.booleans())):
            number, (wanted, priority) = waiting.popitem()
            ledger.ask(name(number), wanted, priority)
        elif ledger.held:
            ledger.release(data.draw(st.sampled_from(sorted(ledger.held))))
        seen |= {execution for execution, _ in ledger.admit()}
        check(ledger)
    assert seen == {name(number) for number in range(len(asked))}
    assert ledger.used == Amounts()


@given(st.integers(1, 40))
def test_a_big_one_is_not_starved_by_small_ones(turns: int) -> None:
    """A job that wants the whole node gets it once those there before it have ended, however many small ones come."""
    ledger = Ledger(CAPACITY)
    small = Amounts(cpu=1)
    for number in range(4):
        ledger.ask(name(number), small)
    ledger.admit()
    big = ExecutionId("e-big")
    ledger.ask(big, Amounts(cpu=4))
    for number in range(4, 4 + turns):
        ledger.ask(name(number), small)
    for number in range(4):
        ledger.release(name(number))
        ledger.admit()
    assert set(ledger.held) == {big}


def test_small_ones_use_what_a_waiting_big_one_leaves() -> None:
    """Beside a head that waits for three of four cores, a job of one core may pass; a second one may not."""
    ledger = Ledger(CAPACITY)
    ledger.ask(name(1), Amounts(cpu=2))
    ledger.admit()
    ledger.ask(name(2), Amounts(cpu=3))
    ledger.ask(name(3), Amounts(cpu=1))
    ledger.ask(name(4), Amounts(cpu=1))

    assert [execution for execution, _ in ledger.admit()] == [name(3)]
    ledger.release(name(1))
    assert [execution for execution, _ in ledger.admit()] == [name(2)]


def test_priority_comes_before_order() -> None:
    """The higher priority is admitted first, and equals in the order of asking."""
    ledger = Ledger(Amounts(cpu=1))
    for number, priority in ((1, 0), (2, 5), (3, 5)):
        ledger.ask(name(number), Amounts(cpu=1), priority)
    order = []
    for _ in range(3):
        [(execution, _)] = ledger.admit()
        order.append(execution)
        ledger.release(execution)
    assert order == [name(2), name(3), name(1)]


def test_growing_needs_room() -> None:
    """What an input's size adds is held only if it is free; to ask whether it is holds nothing."""
    ledger = Ledger(CAPACITY)
    ledger.ask(name(1), Amounts(disk_bytes=10))
    ledger.ask(name(2), Amounts(disk_bytes=50))
    ledger.admit()
    assert not ledger.could_grow(name(1), Amounts(disk_bytes=60))
    assert not ledger.grow(name(1), Amounts(disk_bytes=60))
    assert ledger.could_grow(name(1), Amounts(disk_bytes=50))
    assert ledger.free.disk_bytes == 40
    assert ledger.grow(name(1), Amounts(disk_bytes=50))
    assert ledger.free.disk_bytes == 0
    assert ledger.grow(name(1), Amounts(disk_bytes=50))


def test_what_is_found_again_holds_its_room() -> None:
    """A program adopted after a restart takes its room, even if that leaves less than nothing; others then wait."""
    ledger = Ledger(Amounts(cpu=1))
    ledger.hold(name(1), Amounts(cpu=2))
    ledger.ask(name(2), Amounts(cpu=0.5))
    assert ledger.admit() == []
    ledger.release(name(1))
    assert [execution for execution, _ in ledger.admit()] == [name(2)]


def test_ports_are_given_to_one_at_a_time() -> None:
    """A port is somebody's until it is let go; a static one that is taken is refused; others' ports are passed over."""
    ports = Ports(100, 102)

    def unused(port: int) -> bool:
        return port != 101

    assert ports.take(name(1), 0, unused) == 100
    assert ports.take(name(2), 0, unused) == 102
    assert ports.take(name(3), 0, unused) is None
    assert ports.take(name(3), 100, unused) is None
    ports.release(name(1))
    assert ports.take(name(3), 100, unused) == 100


def test_a_port_that_an_order_names_is_given_to_nobody_else() -> None:
    """While a program that wants a port by number is being prepared, nobody is given that port by chance."""
    ports = Ports(100, 102)
    ports.reserve(name(1), [100, 102])

    assert ports.take(name(2), 0, lambda _: True) == 101
    assert ports.take(name(2), 0, lambda _: True) is None
    assert ports.take(name(2), 100, lambda _: True) is None
    assert ports.take(name(1), 100, lambda _: True) == 100
    ports.release(name(1))
    assert ports.take(name(2), 0, lambda _: True) == 102


def test_nodes_of_one_machine_begin_at_different_ports() -> None:
    """Two nodes with the same range do not give the same port at the same moment."""
    given = [Ports(100, 199, begin=begin).take(name(1), 0, lambda _: True) for begin in (0, 1_030, 99, 100)]
    assert given == [100, 130, 199, 100]


def test_ports_in_use_are_told() -> None:
    """What is told are ports that nobody can know of who places work: those given by chance, and others' ones. What was just
    let go of may still listen for a moment.
    """
    ports = Ports(100, 102)
    ports.take(name(1), 7, lambda _: True)
    ports.take(name(2), 0, lambda _: True)
    assert ports.in_use([]) == ([100], 0)
    assert ports.in_use([7, 100, 101, 8_080]) == ([100, 101, 8_080], 1)
    ports.release(name(1))
    ports.release(name(2))
    assert ports.in_use([7, 100]) == ([], 0)
    assert ports.in_use([7, 100]) == ([7, 100], 1)


def test_a_program_that_was_found_again_has_its_ports() -> None:
    """What a program had before its node was started again is nobody else's; started once more, it has it again."""
    ports = Ports(100, 102)

    ports.hold(name(1), [100, 7])

    assert ports.take(name(2), 0, lambda _: True) == 101
    assert ports.take(name(2), 7, lambda _: True) is None
    assert ports.take(name(1), 7, lambda _: False) == 7
    ports.release(name(1))
    assert ports.take(name(2), 7, lambda _: True) == 7


def test_what_several_share_is_nobodys_but_taken() -> None:
    """Disk that is set aside is not given out again, holds nobody up who wants none, and comes back as it is let go."""
    ledger = Ledger(CAPACITY)
    ledger.aside_bytes = 60
    ledger.ask(name(1), Amounts(cpu=1, disk_bytes=50))
    ledger.ask(name(2), Amounts(cpu=1, disk_bytes=40))
    ledger.ask(name(3), Amounts(cpu=1))
    assert [execution for execution, _ in ledger.admit()] == [name(3)]
    ledger.aside_bytes = 120
    assert ledger.grow(name(3), Amounts(cpu=2))
    assert not ledger.grow(name(3), Amounts(cpu=2, disk_bytes=1))
    ledger.aside_bytes = 0
    assert [execution for execution, _ in ledger.admit()] == [name(1), name(2)]
