------------------------------ MODULE upgrade ------------------------------
(***************************************************************************)
(* The upgrade in place, as ARCHITECTURE.md describes it: preflight,       *)
(* workers parked, state saved, exec, restore, and the way back.           *)
(*                                                                         *)
(* Every action of the environment may come at each step: clients connect, *)
(* handlers end, signals arrive, and the process is killed.  The new       *)
(* binary may refuse, hang, or agree and fail afterwards.                  *)
(*                                                                         *)
(* The constants are the rules of the protocol.  With all of them TRUE the *)
(* properties at the end hold.  With one of them FALSE some property fails;*)
(* .ci/models checks both.                                                 *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets

CONSTANTS
    Workers,            \* the threads that accept connections
    Clients,            \* each connects once; its handler has the same name
    Parks,              \* workers have nothing in hand when the state is saved
    RetriesParking,     \* workers that can't be parked in time serve again
    LimitsPreflight,    \* a preflight that takes too long is killed
    DiesWithParent,     \* a preflight ends with the process that started it
    WorksOnCopies,      \* the new binary duplicates listeners before it closes any
    BorrowsFiles,       \* files are the new binary's own only once it serves
    TriesFirst,         \* there is no exec without a preflight that agreed
    KeepsReaping        \* handlers that end during the exec stay unreaped until the restore

VARIABLES
    step,       \* of the process
    binary,     \* what it executes
    preflight,  \* the child that tries the new binary
    works,      \* whether the new binary can serve: found out by trying it
    worker,     \* what each worker does
    client,     \* where each client is
    alive,      \* handlers that run
    zombies,    \* handlers that have ended and haven't been reaped
    table,      \* handlers that the process knows
    saved,      \* handlers that the state has
    originals,  \* whether the listeners under their own numbers are open
    copies,     \* whether the new binary's copies of them are open
    files,      \* whether socket files and pid file exist
    pending     \* signals that have arrived and aren't handled

vars == <<step, binary, preflight, works, worker, client, alive, zombies, table, saved,
          originals, copies, files, pending>>

Steps == {"serving", "parking", "saved", "restoring", "returning", "ended"}

TypeOK ==
    /\ step \in Steps
    /\ binary \in {"old", "new"}
    /\ preflight \in {"none", "trying", "agreed", "orphan"}
    /\ works \in {"yes", "no", "too late"}
    /\ client \in [Clients -> {"away", "waiting", "held", "served", "lost"}]
    /\ alive \subseteq Clients /\ zombies \subseteq Clients
    /\ table \subseteq Clients /\ saved \subseteq Clients
    /\ originals \in BOOLEAN /\ copies \in BOOLEAN /\ files \in BOOLEAN
    /\ pending \subseteq {"USR2", "TERM"}

Idle == "idle"

Init ==
    /\ step = "serving" /\ binary = "old" /\ preflight = "none" /\ works = "yes"
    /\ worker = [w \in Workers |-> <<Idle, Idle>>]
    /\ client = [c \in Clients |-> "away"]
    /\ alive = {} /\ zombies = {} /\ table = {} /\ saved = {}
    /\ originals = TRUE /\ copies = FALSE /\ files = TRUE
    /\ pending = {}

Listening == originals \/ copies

(***************************************************************************)
(* The environment.                                                        *)
(***************************************************************************)

Connect(c) ==
    /\ client[c] = "away" /\ Listening
    /\ client' = [client EXCEPT ![c] = "waiting"]
    /\ UNCHANGED <<step, binary, preflight, works, worker, alive, zombies, table, saved,
                   originals, copies, files, pending>>

HandlerEnds(c) ==
    /\ c \in alive
    /\ alive' = alive \ {c} /\ zombies' = zombies \union {c}
    /\ UNCHANGED <<step, binary, preflight, works, worker, client, table, saved,
                   originals, copies, files, pending>>

Signal(s) ==
    /\ step # "ended" /\ s \notin pending
    /\ pending' = pending \union {s}
    /\ UNCHANGED <<step, binary, preflight, works, worker, client, alive, zombies, table, saved,
                   originals, copies, files>>

\* SIGKILL, or a crash. The kernel closes what was open; files remain.
Kill ==
    /\ step # "ended"
    /\ step' = "ended"
    /\ originals' = FALSE /\ copies' = FALSE
    /\ preflight' = IF preflight = "none" \/ DiesWithParent THEN "none" ELSE "orphan"
    /\ UNCHANGED <<binary, works, worker, client, alive, zombies, table, saved, files, pending>>

(***************************************************************************)
(* Workers.  They take clients while the process serves, and finish what   *)
(* they have in hand while they are being parked.                          *)
(***************************************************************************)

Accept(w, c) ==
    /\ step = "serving" /\ worker[w][1] = Idle /\ client[c] = "waiting"
    /\ worker' = [worker EXCEPT ![w] = <<"holds", c>>]
    /\ client' = [client EXCEPT ![c] = "held"]
    /\ UNCHANGED <<step, binary, preflight, works, alive, zombies, table, saved,
                   originals, copies, files, pending>>

Threads == {"serving", "parking", "saved"}

Clone(w) ==
    /\ step \in Threads /\ worker[w][1] = "holds"
    /\ LET c == worker[w][2] IN
        /\ alive' = alive \union {c}
        /\ client' = [client EXCEPT ![c] = "served"]
        /\ worker' = [worker EXCEPT ![w] = <<"made", c>>]
    /\ UNCHANGED <<step, binary, preflight, works, zombies, table, saved,
                   originals, copies, files, pending>>

Enter(w) ==
    /\ step \in Threads /\ worker[w][1] = "made"
    /\ table' = table \union {worker[w][2]}
    /\ worker' = [worker EXCEPT ![w] = <<Idle, Idle>>]
    /\ UNCHANGED <<step, binary, preflight, works, client, alive, zombies, saved,
                   originals, copies, files, pending>>

Reap(c) ==
    /\ c \in zombies /\ c \in table
    /\ step = "serving" \/ (step \in {"restoring", "returning"} /\ ~KeepsReaping)
    /\ zombies' = zombies \ {c} /\ table' = table \ {c}
    /\ UNCHANGED <<step, binary, preflight, works, worker, client, alive, saved,
                   originals, copies, files, pending>>

(***************************************************************************)
(* The main thread.                                                        *)
(***************************************************************************)

End ==
    /\ step = "serving" /\ "TERM" \in pending
    /\ step' = "ended"
    /\ pending' = {}
    /\ originals' = FALSE /\ copies' = FALSE /\ files' = FALSE
    /\ preflight' = "none"
    /\ UNCHANGED <<binary, works, worker, client, alive, zombies, table, saved>>

\* One at a time: a second request while there is a preflight is refused. A process upgrades
\* once here; the next upgrade begins from the same state.
Begin ==
    /\ step = "serving" /\ "USR2" \in pending /\ preflight = "none" /\ binary = "old"
    /\ pending' = pending \ {"USR2"}
    /\ preflight' = IF TriesFirst THEN "trying" ELSE "agreed"
    /\ works' \in {"yes", "no", "too late"}
    /\ UNCHANGED <<step, binary, worker, client, alive, zombies, table, saved,
                   originals, copies, files>>

Refuse ==
    /\ step = "serving" /\ "USR2" \in pending /\ (preflight # "none" \/ binary = "new")
    /\ pending' = pending \ {"USR2"}
    /\ UNCHANGED <<step, binary, preflight, works, worker, client, alive, zombies, table, saved,
                   originals, copies, files>>

\* A binary that can't serve may still agree: what fails may have come afterwards.
Agree ==
    /\ preflight = "trying" /\ works # "too late"
    /\ preflight' = "agreed"
    /\ UNCHANGED <<step, binary, works, worker, client, alive, zombies, table, saved,
                   originals, copies, files, pending>>

Disagree ==
    /\ preflight = "trying" /\ works = "no"
    /\ preflight' = "none"
    /\ UNCHANGED <<step, binary, works, worker, client, alive, zombies, table, saved,
                   originals, copies, files, pending>>

Limit ==
    /\ LimitsPreflight /\ preflight = "trying" /\ step = "serving"
    /\ preflight' = "none"
    /\ UNCHANGED <<step, binary, works, worker, client, alive, zombies, table, saved,
                   originals, copies, files, pending>>

Park ==
    /\ step = "serving" /\ preflight = "agreed" /\ binary = "old"
    /\ step' = "parking" /\ preflight' = "none"
    /\ UNCHANGED <<binary, works, worker, client, alive, zombies, table, saved,
                   originals, copies, files, pending>>

Parked == \A w \in Workers : worker[w][1] = Idle

Save ==
    /\ step = "parking" /\ (Parked \/ ~Parks)
    /\ step' = "saved" /\ saved' = table
    /\ UNCHANGED <<binary, preflight, works, worker, client, alive, zombies, table,
                   originals, copies, files, pending>>

\* A worker is blocked by its newborn child for too long.
Postpone ==
    /\ RetriesParking /\ step = "parking" /\ ~Parked
    /\ step' = "serving"
    /\ UNCHANGED <<binary, preflight, works, worker, client, alive, zombies, table, saved,
                   originals, copies, files, pending>>

NotExecuted ==
    /\ step = "saved"
    /\ step' = "serving"
    /\ UNCHANGED <<binary, preflight, works, worker, client, alive, zombies, table, saved,
                   originals, copies, files, pending>>

\* The threads are gone, and memory with them: a client in hand is lost.
Exec ==
    /\ step = "saved"
    /\ step' = "restoring" /\ binary' = "new"
    /\ client' = [c \in Clients |-> IF client[c] = "held" THEN "lost" ELSE client[c]]
    /\ worker' = [w \in Workers |-> <<Idle, Idle>>]
    /\ table' = IF KeepsReaping THEN {} ELSE saved
    /\ UNCHANGED <<preflight, works, alive, zombies, saved, originals, copies, files, pending>>

\* What the new binary works on. Without copies it takes the originals themselves.
Take ==
    /\ step = "restoring" /\ ~copies
    /\ copies' = TRUE /\ originals' = WorksOnCopies
    /\ UNCHANGED <<step, binary, preflight, works, worker, client, alive, zombies, table, saved,
                   files, pending>>

Restore ==
    /\ step = "restoring" /\ copies /\ works = "yes"
    /\ step' = "serving"
    /\ table' = saved
    /\ originals' = FALSE
    /\ UNCHANGED <<binary, preflight, works, worker, client, alive, zombies, saved, copies,
                   files, pending>>

\* Copies are closed on exec. What the new binary owns is dropped before.
Fail ==
    /\ step = "restoring" /\ copies /\ works # "yes"
    /\ step' = "returning" /\ binary' = "old"
    /\ copies' = FALSE
    /\ files' = (files /\ BorrowsFiles)
    /\ UNCHANGED <<preflight, works, worker, client, alive, zombies, table, saved, originals,
                   pending>>

Return ==
    /\ step = "returning"
    /\ step' = "serving"
    /\ table' = saved
    /\ UNCHANGED <<binary, preflight, works, worker, client, alive, zombies, saved, originals,
                   copies, files, pending>>

Process ==
    \/ End \/ Begin \/ Refuse \/ Limit \/ Park \/ Save \/ Postpone \/ NotExecuted \/ Exec
    \/ Take \/ Restore \/ Fail \/ Return

Hands == \E w \in Workers : Clone(w) \/ Enter(w)

Environment ==
    \/ \E c \in Clients : Connect(c) \/ HandlerEnds(c)
    \/ \E s \in {"USR2", "TERM"} : Signal(s)
    \/ Kill \/ Agree \/ Disagree

Stop == step = "ended" /\ UNCHANGED vars

Next ==
    \/ Process \/ Hands \/ Environment \/ Stop
    \/ \E w \in Workers, c \in Clients : Accept(w, c)
    \/ \E c \in Clients : Reap(c)

\* A newborn child may block its worker for ever, and a preflight may hang: neither is fair.
Fairness ==
    /\ WF_vars(Save) /\ WF_vars(Postpone) /\ WF_vars(Exec) /\ WF_vars(Limit)
    /\ WF_vars(Take) /\ WF_vars(Restore) /\ WF_vars(Fail) /\ WF_vars(Return)
    /\ SF_vars(End)

Spec == Init /\ [][Next]_vars /\ Fairness

(***************************************************************************)
(* What holds.                                                             *)
(***************************************************************************)

\* No client that connected is lost by an upgrade, whether it succeeds, fails or returns.
NoClientLost == \A c \in Clients : client[c] # "lost"

\* A process that serves knows each of its handlers, but for those just being made.
BeingMade == {c \in Clients : \E w \in Workers : worker[w] = <<"made", c>>}
HandlersKnown == step = "serving" => alive \union zombies = table \union BeingMade

\* A process id in the state or in the table is never one that was reaped, and so another's.
NoIdReused ==
    /\ table \subseteq alive \union zombies
    /\ step \in {"restoring", "returning"} => saved \subseteq alive \union zombies

\* New clients find a listener at every moment until the process ends, and none after.
ListenersKept == (step # "ended") = Listening

\* A preflight or a failed binary removes nothing; and what it has ends with the daemon.
FilesKept == step # "ended" => files
NoOrphan == preflight # "orphan"

\* Only a binary that was tried is executed, and never one that hung.
OnlyTried == step \in {"restoring"} => works # "too late"

\* An upgrade comes to an end, and a preflight too.
UpgradeEnds == [](step \in {"parking", "saved", "restoring", "returning"} => <>(step \in {"serving", "ended"}))
PreflightEnds == [](preflight = "trying" => <>(preflight # "trying"))

\* TERM ends the process, whenever it comes.
TermEnds == []("TERM" \in pending => <>(step = "ended"))
=============================================================================
