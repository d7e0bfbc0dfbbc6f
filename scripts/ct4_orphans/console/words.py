"""What the pages say, in Spanish and English: two dictionaries of equal keys, and sentences.

`backticks` in a text become <code> in a page. Sentences are composed from data (an Explanation, a
PlannedDriver), never cut out of the English text of a command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any

from ct4_orphans.console.schemas import Entry, Explanation, PlannedDriver

DEFAULT = "es"
LEAD_ROWS_NAMED = 3

ES: dict[str, str] = {
    # frame
    "language": "Español",
    "product": "Conductores huérfanos",
    "skip": "Ir al contenido",
    "nav": "Principal",
    "nav.dashboard": "Panel",
    "nav.orphans": "Huérfanos",
    "other_language": "English",
    "signed_in_as": "Sesión de {name}",
    "local": "Solo lectura, este equipo",
    "sign_in": "Iniciar sesión",
    "sign_out": "Cerrar sesión",
    "footer": "Todas las horas están en UTC. Las vistas se leen en vivo.",
    "utc": "{at} UTC",
    "none": "—",
    "yes": "Sí",
    "details": "Detalle técnico",
    "retry": "Reintentar",
    "and": "y",
    "drivers.one": "{n} conductor",
    "drivers.many": "{n} conductores",
    "more.one": "y {n} más",
    "more.many": "y {n} más",
    "loading": "Cargando…",
    # statuses and reasons
    "status": "Estado",
    "status.quarantined": "En cuarentena",
    "status.resolved_relinked": "Reenlazado",
    "status.resolved_created_lead": "Liberado: ya tiene lead",
    "status.purged": "Purgado",
    "status.none": "Fuera del registro",
    "reason": "Motivo",
    "reason.no_lead_no_events": "Sin lead y sin eventos",
    "reason.no_lead_has_events_repair_failed": "Con eventos, sin lead probado",
    "reason.legacy_driver_without_origin": "Antiguo, sin origen",
    "reason.manual_detection": "Detección manual",
    # cards
    "cards": "Resumen",
    "card.total": "Huérfanos registrados",
    "card.total.says": "alguna vez en cuarentena",
    "card.quarantined": "En cuarentena",
    "card.quarantined.says": "fuera del embudo, de los elegibles y de los pagos",
    "card.resolved": "Resueltos",
    "card.resolved.says": "{relinked} reenlazados, {released} liberados con lead",
    "card.events": "Con eventos de lead",
    "card.events.says": "{n} sin ningún evento",
    "card.updated": "Último cambio: {at}",
    "metrics.error": "No se pudo leer el resumen.",
    "by_status": "Por estado",
    "by_reason": "Por motivo de detección",
    "bar.filter": "{label}: {n}. Filtrar la lista",
    # list
    "orphans.title": "Conductores huérfanos",
    "orphans.says": "Conductores sin un lead probado: en cuarentena, reenlazados o liberados.",
    "list": "Lista",
    "filter": "Filtrar",
    "filter.all": "Todos",
    "filter.driver": "El id de conductor empieza con",
    "filter.driver.hint": "32 caracteres, de 0 a 9 y de a hasta f",
    "filter.apply": "Aplicar filtros",
    "filter.clear": "Limpiar filtros",
    "filter.ignored": "No se entendió esta parte de la dirección y se ignoró: {names}.",
    "sort": "Ordenar por",
    "page_size": "Por página",
    "matches.one": "{n} conductor coincide",
    "matches.many": "{n} conductores coinciden",
    "personal.show": "Mostrar datos personales",
    "personal.hide": "Ocultar datos personales",
    "personal.masked": "Teléfono, licencia y nombre están enmascarados.",
    "personal.shown": "Se muestran datos personales: no los comparta.",
    "personal.denied": "Este token no permite ver datos personales; siguen enmascarados.",
    "table.caption": "Conductores huérfanos, ordenados por {column} ({direction})",
    "ascending": "ascendente",
    "descending": "descendente",
    "sort.by": "Ordenar por {column}",
    "col.driver_id": "Conductor",
    "col.status": "Estado",
    "col.detected_reason": "Motivo",
    "col.detected_at": "Detectado",
    "col.links": "Vínculos",
    "col.events": "Eventos de lead",
    "col.last_updated_at": "Último cambio",
    "col.phone": "Teléfono",
    "col.license": "Licencia",
    "col.name": "Nombre",
    "pager": "Páginas",
    "pager.of": "Página {page} de {pages}",
    "pager.range": "{first}–{last} de {total}",
    "pager.first": "Primera",
    "pager.previous": "Anterior",
    "pager.next": "Siguiente",
    "pager.last": "Última",
    "list.none.title": "Todavía no hay huérfanos registrados",
    "list.none.says": "Nadie ha entrado en cuarentena. Una simulación (dry-run) muestra a quién "
    "pondría el arreglo.",
    "list.none.do": "Ir a la simulación",
    "list.no_match.title": "Ningún conductor coincide",
    "list.no_match.says": "Pruebe con menos filtros, o revise el comienzo del id.",
    "list.error": "No se pudo leer la lista.",
    # fix
    "fix.title": "Arreglo",
    "fix.says": "Primero se simula y se revisa el plan; después se ejecuta exactamente ese plan.",
    "fix.dry_run": "Simular (dry-run)",
    "fix.dry_run.says": "Calcula el plan y escribe un informe. No cambia nada en la base.",
    "fix.limit": "Límite de conductores",
    "fix.limit.hint": "vacío: todos",
    "fix.reprocess": "Revisar de nuevo a los que están en cuarentena",
    "fix.execute": "Ejecutar este plan",
    "fix.execute.first": "Para ejecutar hace falta un plan recién revisado: simule primero.",
    "fix.execute.empty": "El plan no tiene conductores: no hay nada que ejecutar.",
    "fix.needs_script": "Simular y ejecutar necesitan JavaScript. Sin él, use "
    "`orphans fix --dry-run` en el servidor.",
    "fix.no_tokens": "Esta consola es de solo lectura: se inició sin tokens. Para simular y "
    "ejecutar, cree un token con `orphans token NOMBRE --fix` y reinicie con "
    "`orphans serve --tokens ARCHIVO`.",
    "fix.no_permission": "El token de esta sesión solo permite leer. Pida uno con permiso "
    "`fix` a quien administra la consola.",
    "fix.not_enabled": "La ejecución está apagada en este servidor. Quien lo administra puede "
    "encenderla con `ENABLE_ORPHANS_FIX=true`; la simulación funciona igual.",
    "fix.starting": "Enviando…",
    "fix.another_tab": "Hay otra corrida en marcha; se muestra aquí.",
    "run.title.dry-run": "Simulación (dry-run)",
    "run.title.execute": "Ejecución",
    "run.state.running": "en marcha",
    "run.state.complete": "completa",
    "run.state.incomplete": "incompleta",
    "run.state.failed": "fallida",
    "run.step.planning": "Calculando el plan…",
    "run.step.applying": "Aplicando: {done} de {total} conductores",
    "run.step.reporting": "Escribiendo el informe…",
    "run.step.ended": "Terminado",
    "run.progress": "Avance",
    "run.stop": "Detener",
    "run.stop.says": "Termina la transacción en curso y se detiene. Nada queda a medias.",
    "run.stopping": "Deteniendo después de la transacción en curso…",
    "run.by": "por {actor}, {at}",
    "run.took": "duró {seconds}\u00a0s",
    "run.link": "Ver esta corrida sola",
    "run.plan.says.one": "El plan tiene {n} conductor. Nada ha cambiado todavía.",
    "run.plan.says.many": "El plan tiene {n} conductores. Nada ha cambiado todavía.",
    "run.nothing.title": "No hay nada que arreglar",
    "run.nothing.says": "Ningún conductor necesita un cambio. Siguiente paso: verificar con "
    "`orphans verify`.",
    "run.done.says.one": "Se aplicó a {n} conductor.",
    "run.done.says.many": "Se aplicó a {n} conductores.",
    "run.incomplete.says": "Terminó, pero no se aplicó todo.",
    "run.failed.says": "No se pudo terminar.",
    "run.next.verify": "Siguiente paso: verificar con `orphans verify`, o mirar los "
    "criterios en el panel.",
    "run.next.again": "Siguiente paso: haga otra simulación para los que quedaron.",
    "run.next.failed": "Revise el detalle, corrija la causa y haga otra simulación. Lo que ya se "
    "aplicó no se repite.",
    "run.id": "Corrida (run_id)",
    "run.digest": "Huella del registro (digest)",
    "run.reports": "Informes",
    "run.report.json": "JSON",
    "run.report.csv": "CSV",
    "run.drivers": "Primeros {shown} de {total} conductores",
    "run.drivers.all": "Conductores del plan",
    "run.unfinished": "No aplicados",
    "run.col.action": "Acción",
    "run.col.why": "Por qué",
    "run.refresh": "La lista y el resumen se actualizaron.",
    "run.gone.title": "Esa corrida no está en la memoria de la consola",
    "run.gone.says": "La consola recuerda las últimas 50 corridas desde que se inició. Todas las "
    "que escribieron están en el panel y en `orphans audit`.",
    "action.relink": "Reenlazar",
    "action.quarantine": "Poner en cuarentena",
    "action.release": "Liberar",
    "action.none": "Ninguna",
    "outcome.planned": "planificado",
    "outcome.applied": "aplicado",
    "outcome.changed": "cambió mientras tanto",
    "outcome.refused": "rechazado: cambió desde la revisión",
    "outcome.already applied": "ya estaba aplicado",
    "outcome.failed": "error",
    "outcome.none": "no alcanzado",
    "stat.processed": "Conductores",
    "stat.resolved_relinked": "Reenlazados",
    "stat.quarantined": "En cuarentena",
    "stat.released": "Liberados",
    "stat.links_created": "Vínculos de lead",
    "stat.with_events": "Con eventos",
    "stat.without_events": "Sin eventos",
    "stat.links_skipped": "Vínculos omitidos",
    "stat.changed": "Cambiaron mientras tanto",
    "stat.refused": "Rechazados",
    "stat.already_applied": "Ya aplicados",
    "stat.not_reached": "No alcanzados",
    "stat.errors": "Errores",
    "strategy.driver_id_exact": "por id de conductor",
    "strategy.both_exact": "por licencia y teléfono",
    "strategy.license_exact": "por licencia",
    "strategy.phone_exact": "por teléfono",
    "confirm.title": "¿Ejecutar este plan?",
    "confirm.database": "Base de datos",
    "confirm.drivers": "Conductores",
    "confirm.what": "Qué va a pasar",
    "confirm.relink": "se reenlazan con su lead y vuelven a operar",
    "confirm.quarantine": "entran en cuarentena: salen del embudo, de los elegibles y de los pagos",
    "confirm.release": "salen de la cuarentena, porque ya tienen un lead",
    "confirm.undo": "Se puede revertir con `orphans undo`. A quien haya cambiado desde la "
    "simulación no se le toca.",
    "confirm.type": "Para confirmar, escriba el número de conductores: {n}",
    "confirm.wrong": "No es el número de conductores del plan ({n}).",
    "confirm.yes": "Ejecutar",
    "confirm.cancel": "Cancelar",
    "problem.401": "La sesión terminó. Inicie sesión otra vez.",
    "problem.403": "No está permitido.",
    "problem.404": "No se encontró.",
    "problem.409": "No se hizo nada: otra corrida está en marcha, o el plan ya no vale.",
    "problem.422": "El pedido no es válido. Revise el límite.",
    "problem.429": "Demasiados intentos. Espere un minuto.",
    "problem.503": "La base de datos no responde.",
    "problem.500": "El servidor no pudo hacerlo.",
    "problem.network": "No hay conexión con la consola. Revise que el servidor siga encendido.",
    # driver
    "driver.back": "Volver a la lista",
    "driver.verdict": "Veredicto",
    "driver.orphan": "Es huérfano",
    "driver.no_orphan": "No es huérfano",
    "verdict.orphan": "Está vinculado a la persona {person}, que no tiene ningún lead.",
    "verdict.purged": "Una purga quitó su vínculo de conductor y lo guarda en el registro.",
    "verdict.no_link": "No tiene vínculo de conductor, así que no pertenece a ninguna persona.",
    "verdict.has_lead": "Está vinculado a la persona {person}, que tiene un lead: {leads}.",
    "driver.facts": "Datos",
    "fact.person": "Persona",
    "fact.link": "Vínculo",
    "fact.link.says": "{rule}, confianza {confidence}",
    "fact.linked_at": "Vinculado",
    "fact.detected": "Detectado",
    "fact.resolved": "Resuelto",
    "fact.note": "Nota",
    "fact.kept_link": "Vínculo guardado por la purga",
    "driver.evidence": "Evidencia",
    "evidence.proves.1": "Un evento de lead nombra a este conductor: la prueba más fuerte "
    "(nivel 1).",
    "evidence.proves.both_exact": "Un evento de lead tiene la misma licencia y el mismo teléfono "
    "(nivel 2).",
    "evidence.proves.license_exact": "Un evento de lead tiene la misma licencia (nivel 2).",
    "evidence.proves.phone_exact": "Un evento de lead tiene el mismo teléfono (nivel 2).",
    "evidence.rows": "Prueban el lead: {rows}.",
    "evidence.refused.one": "{n} evento de lead coincide, pero no prueba un lead ({why}).",
    "evidence.refused.many": "{n} eventos de lead coinciden, pero ninguno prueba un lead ({why}).",
    "evidence.weak_only.one": "Ningún evento de lead nombra al conductor ni tiene su licencia o "
    "teléfono; {n} solo lleva la clave de su persona, que no prueba nada.",
    "evidence.weak_only.many": "Ningún evento de lead nombra al conductor ni tiene su licencia o "
    "teléfono; {n} solo llevan la clave de su persona, que no prueba nada.",
    "evidence.nothing": "Ningún evento de lead nombra al conductor ni tiene su licencia o "
    "teléfono.",
    "evidence.not_asked": "No es huérfano ni está en cuarentena: no hay evidencia que buscar.",
    "evidence.rivals": "Eventos rechazados",
    "evidence.weak": "Eventos débiles",
    "evidence.weak.says": "Solo llevan la clave de la persona. Son contexto para quien revisa.",
    "rival.matched_by": "Coincide por {kinds} (nivel {level})",
    "kind.driver_id": "id de conductor",
    "kind.license": "licencia",
    "kind.phone": "teléfono",
    "refusal.ambiguous": "habla de varias personas",
    "refusal.lead_already_linked": "su fila de lead ya es de otra persona",
    "refusal.event_of_another_person": "el evento es de otra persona",
    "rival.persons": "Personas: {persons}",
    "rival.linked_to": "La fila de lead es de {person}",
    "rival.event_of": "El evento es de {person}",
    "driver.next": "Qué haría un arreglo",
    "next.nothing": "Un arreglo lo dejaría como está.",
    "next.relink": "Un arreglo lo reenlazaría con su lead.",
    "next.quarantine": "Un arreglo lo pondría en cuarentena.",
    "next.quarantine_again": "Un arreglo anotaría la evidencia nueva; seguiría en cuarentena.",
    "next.release": "Un arreglo lo liberaría: su persona ya tiene un lead.",
    "next.reprocess": "Solo si se pide revisar de nuevo a los que están en cuarentena.",
    "driver.history": "Historia",
    "history.says": "El registro solo crece: cada cambio es una entrada nueva.",
    "history.none": "El registro no tiene ninguna entrada de este conductor.",
    "history.by": "por {by}",
    "history.for": "para {actor}",
    "history.run": "corrida {run}",
    "history.undoes": "revierte la corrida {run}",
    "history.withdrawn": "Retirado de la cuarentena",
    "history.revision": "Revisión {n}",
    "recorded.relinked.one": "Reenlazado con {n} evento de lead, {strategy}.",
    "recorded.relinked.many": "Reenlazado con {n} eventos de lead; el más fuerte, {strategy}.",
    "recorded.released": "Liberado: su persona ya tiene un lead ({lead}).",
    "driver.views": "Vistas que lo muestran",
    "view.shown": "Lo muestra",
    "view.hidden": "No lo muestra",
    "view.excluded": "porque está excluido: {status}",
    "view.ops.v_driver_orphans": "Registro de huérfanos",
    "view.ops.v_cabinet_funnel_status": "Embudo",
    "view.ops.v_payment_calculation": "Pagos",
    "view.ops.v_ct4_eligible_drivers": "Elegibles",
    "why_not.ops.v_driver_orphans": "nunca estuvo en cuarentena",
    "why_not.ops.v_cabinet_funnel_status": "no tiene vínculo de conductor ni viajes",
    "why_not.ops.v_payment_calculation": "ningún evento de lead de su persona cumple una regla",
    "why_not.ops.v_ct4_eligible_drivers": "ningún evento de lead de su persona lo hace elegible",
    "driver.unknown.title": "La base no conoce a este conductor",
    "driver.unknown.says": "No hay vínculo, entrada ni vista con el id {driver_id}. Revise el id: "
    "son 32 caracteres, de 0 a 9 y de a hasta f.",
    # dashboard
    "dashboard.title": "Panel",
    "dashboard.says": "Huérfanos, criterios de aceptación, embudo y últimas corridas.",
    "dashboard.orphans": "Huérfanos",
    "dashboard.see_list": "Ver la lista",
    "criteria.title": "Criterios de aceptación",
    "criteria.says": "Contados en vivo. Verde: sin violaciones.",
    "criteria.without_script": "Ver criterios y embudo (tarda unos segundos)",
    "criteria.error": "No se pudieron leer los criterios.",
    "criteria.at": "Contado: {at}",
    "criteria.checked.one": "{n} fila revisada",
    "criteria.checked.many": "{n} filas revisadas",
    "criteria.violations.one": "{n} violación",
    "criteria.violations.many": "{n} violaciones",
    "criteria.green": "Cumple",
    "criteria.red": "No cumple",
    "criteria.unknown": "Sin verificar",
    "criteria.unknown.do": "Falta verificar al menos una vez: ejecute `orphans verify`.",
    "criteria.red.do": "Vea las filas en el esquema `ct4_orphans_audit`, o ejecute "
    "`orphans verify`: dice qué hacer.",
    "criterion.1": "Ningún conductor sin lead opera",
    "criterion.2": "Ningún excluido se muestra ni se paga",
    "criterion.3": "Cada conductor sin lead está registrado",
    "criterion.4": "La página funciona",
    "criterion.4.says": "Se comprueba al abrir: el panel acaba de leer la lista de huérfanos.",
    "criterion.4.broken": "El panel no pudo leer la lista de huérfanos.",
    "criterion.5": "La cuarentena y los leads concuerdan",
    "check.criterion_1_drivers_without_lead_outside_quarantine": "sin lead, fuera de cuarentena",
    "check.criterion_2_excluded_drivers_in_funnel": "excluidos en el embudo",
    "check.criterion_2_excluded_drivers_in_payments": "excluidos en los pagos",
    "check.criterion_2_excluded_drivers_in_eligible": "excluidos entre los elegibles",
    "check.criterion_3_drivers_without_lead_without_record": "sin lead y sin registro",
    "check.criterion_5_quarantined_drivers_with_a_lead": "en cuarentena con lead",
    "check.criterion_5_released_drivers_without_lead": "liberados sin lead",
    "check.criterion_5_relinks_and_ledger_disagree": "vínculos y registro en desacuerdo",
    "check.criterion_5_ledger_history_has_gaps": "huecos en la historia",
    "funnel.title": "Embudo",
    "funnel.says.one": "{n} conductor que no está excluido.",
    "funnel.says.many": "{n} conductores que no están excluidos.",
    "funnel.error": "No se pudo leer el embudo.",
    "funnel.none": "El embudo está vacío. Revise que las cargas de CT4 hayan corrido.",
    "stage.registered_incomplete": "Registro incompleto",
    "stage.registered_complete": "Registrado, sin conexión",
    "stage.connected_no_trips": "Conectado, sin viajes",
    "stage.reached_m1": "Hito de 1 viaje",
    "stage.reached_m5": "Hito de 5 viajes",
    "stage.reached_m25": "Hito de 25 viajes",
    "runs.title": "Últimas corridas",
    "runs.says": "De cualquier comando que escribió en el registro.",
    "runs.none": "Todavía no hay corridas. La primera será una ejecución del arreglo.",
    "runs.error": "No se pudieron leer las corridas.",
    "runs.caption": "Últimas corridas, la más reciente primero",
    "runs.col.when": "Cuándo",
    "runs.col.who": "Quién",
    "runs.col.what": "Qué",
    "runs.col.entries": "Entradas",
    "runs.col.run": "Corrida",
    "runs.not_ended": "sin final: en marcha, o se cortó",
    "health.title": "Salud",
    "health.ok": "Conectado",
    "health.unavailable": "Sin conexión",
    "health.database": "Base de datos",
    "health.reads_as": "Lee como",
    "health.fix": "Ejecución",
    "health.fix.on": "encendida",
    "health.fix.off": "apagada",
    "health.version": "Versión",
    "database.away.title": "La base de datos no responde",
    "database.away.says": "La consola sigue encendida. Revise que el servidor de la base esté "
    "arriba y vuelva a intentarlo.",
    # sign-in
    "sign_in.title": "Iniciar sesión",
    "sign_in.says": "Use el token que le dio quien administra la consola.",
    "sign_in.token": "Token",
    "sign_in.submit": "Entrar",
    "sign_in.wrong": "El token no es válido. Revise que esté completo, sin espacios.",
    "sign_in.too_many": "Demasiados intentos. Espere un minuto.",
    "sign_in.needed": "Inicie sesión para ver esta página.",
    "sign_in.signed_out": "La sesión se cerró.",
    "sign_in.not_needed": "Esta consola se inició sin tokens: se lee desde este equipo, sin "
    "sesión. Para tener sesiones, inicie con `orphans serve --tokens ARCHIVO`.",
    "sign_in.lost": "¿Sin token? Quien administra la consola crea uno con `orphans token NOMBRE`.",
    "sign_in.other_site": "El pedido vino de otro sitio. Inicie sesión desde esta página.",
    # problems
    "forbidden.title": "No está permitido",
    "forbidden.says": "Esta sesión no puede ver esto. Pida el permiso a quien administra la "
    "consola.",
    "not_found.title": "Esta página no existe",
    "not_found.says": "Revise la dirección, o vuelva al panel.",
    "error.title": "Algo salió mal",
    "error.says": "La consola no pudo mostrar esta página. Vuelva a intentarlo; si sigue igual, "
    "mire el registro del servidor.",
}

EN: dict[str, str] = {
    "language": "English",
    "product": "Orphan drivers",
    "skip": "Skip to content",
    "nav": "Main",
    "nav.dashboard": "Dashboard",
    "nav.orphans": "Orphans",
    "other_language": "Español",
    "signed_in_as": "Signed in as {name}",
    "local": "Read only, this machine",
    "sign_in": "Sign in",
    "sign_out": "Sign out",
    "footer": "All times are in UTC. The views are read live.",
    "utc": "{at} UTC",
    "none": "—",
    "yes": "Yes",
    "details": "Technical detail",
    "retry": "Try again",
    "and": "and",
    "drivers.one": "{n} driver",
    "drivers.many": "{n} drivers",
    "more.one": "and {n} more",
    "more.many": "and {n} more",
    "loading": "Loading…",
    "status": "Status",
    "status.quarantined": "In quarantine",
    "status.resolved_relinked": "Relinked",
    "status.resolved_created_lead": "Released: has a lead",
    "status.purged": "Purged",
    "status.none": "Not in the ledger",
    "reason": "Reason",
    "reason.no_lead_no_events": "No lead, no events",
    "reason.no_lead_has_events_repair_failed": "Has events, no proven lead",
    "reason.legacy_driver_without_origin": "Legacy, without origin",
    "reason.manual_detection": "Manual detection",
    "cards": "Summary",
    "card.total": "Recorded orphans",
    "card.total.says": "ever in quarantine",
    "card.quarantined": "In quarantine",
    "card.quarantined.says": "out of the funnel, eligibility and payments",
    "card.resolved": "Resolved",
    "card.resolved.says": "{relinked} relinked, {released} released with a lead",
    "card.events": "With lead events",
    "card.events.says": "{n} without any event",
    "card.updated": "Last change: {at}",
    "metrics.error": "The summary could not be read.",
    "by_status": "By status",
    "by_reason": "By reason of detection",
    "bar.filter": "{label}: {n}. Filter the list",
    "orphans.title": "Orphan drivers",
    "orphans.says": "Drivers without a proven lead: in quarantine, relinked or released.",
    "list": "List",
    "filter": "Filter",
    "filter.all": "All",
    "filter.driver": "Driver id starts with",
    "filter.driver.hint": "32 characters, 0 to 9 and a to f",
    "filter.apply": "Apply filters",
    "filter.clear": "Clear filters",
    "filter.ignored": "This part of the address was not understood and is ignored: {names}.",
    "sort": "Sort by",
    "page_size": "Per page",
    "matches.one": "{n} driver matches",
    "matches.many": "{n} drivers match",
    "personal.show": "Show personal data",
    "personal.hide": "Hide personal data",
    "personal.masked": "Phone, licence and name are masked.",
    "personal.shown": "Personal data is shown: do not share it.",
    "personal.denied": "This token may not see personal data; it stays masked.",
    "table.caption": "Orphan drivers, sorted by {column} ({direction})",
    "ascending": "ascending",
    "descending": "descending",
    "sort.by": "Sort by {column}",
    "col.driver_id": "Driver",
    "col.status": "Status",
    "col.detected_reason": "Reason",
    "col.detected_at": "Detected",
    "col.links": "Links",
    "col.events": "Lead events",
    "col.last_updated_at": "Last change",
    "col.phone": "Phone",
    "col.license": "Licence",
    "col.name": "Name",
    "pager": "Pages",
    "pager.of": "Page {page} of {pages}",
    "pager.range": "{first}–{last} of {total}",
    "pager.first": "First",
    "pager.previous": "Previous",
    "pager.next": "Next",
    "pager.last": "Last",
    "list.none.title": "No orphans are recorded yet",
    "list.none.says": "Nobody has entered quarantine. A dry-run shows whom the fix would put "
    "there.",
    "list.none.do": "Go to the dry-run",
    "list.no_match.title": "No driver matches",
    "list.no_match.says": "Try fewer filters, or check the beginning of the id.",
    "list.error": "The list could not be read.",
    "fix.title": "Fix",
    "fix.says": "First make a dry-run and review the plan; then execute exactly that plan.",
    "fix.dry_run": "Dry-run",
    "fix.dry_run.says": "Computes the plan and writes a report. Nothing in the database changes.",
    "fix.limit": "Limit of drivers",
    "fix.limit.hint": "empty: all",
    "fix.reprocess": "Look again at those in quarantine",
    "fix.execute": "Execute this plan",
    "fix.execute.first": "To execute, there must be a plan just reviewed: make a dry-run first.",
    "fix.execute.empty": "The plan has no drivers: there is nothing to execute.",
    "fix.needs_script": "Dry-run and execute need JavaScript. Without it, use "
    "`orphans fix --dry-run` on the server.",
    "fix.no_tokens": "This console only reads: it was started without tokens. To make a dry-run "
    "and execute, make a token with `orphans token NAME --fix` and restart with "
    "`orphans serve --tokens FILE`.",
    "fix.no_permission": "The token of this session may only read. Ask whoever runs the console "
    "for one with the permission `fix`.",
    "fix.not_enabled": "Executing is switched off on this server. Whoever runs it can switch it on "
    "with `ENABLE_ORPHANS_FIX=true`; a dry-run works all the same.",
    "fix.starting": "Sending…",
    "fix.another_tab": "Another run is on; it is shown here.",
    "run.title.dry-run": "Dry-run",
    "run.title.execute": "Execute",
    "run.state.running": "running",
    "run.state.complete": "complete",
    "run.state.incomplete": "incomplete",
    "run.state.failed": "failed",
    "run.step.planning": "Computing the plan…",
    "run.step.applying": "Applying: {done} of {total} drivers",
    "run.step.reporting": "Writing the report…",
    "run.step.ended": "Ended",
    "run.progress": "Progress",
    "run.stop": "Stop",
    "run.stop.says": "Ends the transaction that is on, then stops. Nothing is left half done.",
    "run.stopping": "Stopping after the transaction that is on…",
    "run.by": "by {actor}, {at}",
    "run.took": "took {seconds}\u00a0s",
    "run.link": "See this run alone",
    "run.plan.says.one": "The plan has {n} driver. Nothing has changed yet.",
    "run.plan.says.many": "The plan has {n} drivers. Nothing has changed yet.",
    "run.nothing.title": "There is nothing to fix",
    "run.nothing.says": "No driver needs a change. Next: verify with `orphans verify`.",
    "run.done.says.one": "Applied to {n} driver.",
    "run.done.says.many": "Applied to {n} drivers.",
    "run.incomplete.says": "It ended, but not everything was applied.",
    "run.failed.says": "It could not end well.",
    "run.next.verify": "Next: verify with `orphans verify`, or look at the criteria on the "
    "dashboard.",
    "run.next.again": "Next: make another dry-run for those that are left.",
    "run.next.failed": "Read the detail, mend the cause and make another dry-run. What is applied "
    "is not applied twice.",
    "run.id": "Run (run_id)",
    "run.digest": "Digest of the ledger",
    "run.reports": "Reports",
    "run.report.json": "JSON",
    "run.report.csv": "CSV",
    "run.drivers": "First {shown} of {total} drivers",
    "run.drivers.all": "Drivers of the plan",
    "run.unfinished": "Not applied",
    "run.col.action": "Action",
    "run.col.why": "Why",
    "run.refresh": "The list and the summary were brought up to date.",
    "run.gone.title": "The console does not remember that run",
    "run.gone.says": "It remembers the last 50 runs since it was started. All that wrote something "
    "are on the dashboard and in `orphans audit`.",
    "action.relink": "Relink",
    "action.quarantine": "Quarantine",
    "action.release": "Release",
    "action.none": "None",
    "outcome.planned": "planned",
    "outcome.applied": "applied",
    "outcome.changed": "changed meanwhile",
    "outcome.refused": "refused: changed since the review",
    "outcome.already applied": "applied already",
    "outcome.failed": "error",
    "outcome.none": "not reached",
    "stat.processed": "Drivers",
    "stat.resolved_relinked": "Relinked",
    "stat.quarantined": "In quarantine",
    "stat.released": "Released",
    "stat.links_created": "Lead links",
    "stat.with_events": "With events",
    "stat.without_events": "Without events",
    "stat.links_skipped": "Links skipped",
    "stat.changed": "Changed meanwhile",
    "stat.refused": "Refused",
    "stat.already_applied": "Applied already",
    "stat.not_reached": "Not reached",
    "stat.errors": "Errors",
    "strategy.driver_id_exact": "by driver id",
    "strategy.both_exact": "by licence and phone",
    "strategy.license_exact": "by licence",
    "strategy.phone_exact": "by phone",
    "confirm.title": "Execute this plan?",
    "confirm.database": "Database",
    "confirm.drivers": "Drivers",
    "confirm.what": "What will happen",
    "confirm.relink": "are relinked with their lead and operate again",
    "confirm.quarantine": "enter quarantine: out of the funnel, eligibility and payments",
    "confirm.release": "leave quarantine, because they have a lead by now",
    "confirm.undo": "`orphans undo` reverses it. Whoever has changed since the dry-run is left "
    "alone.",
    "confirm.type": "To confirm, type the number of drivers: {n}",
    "confirm.wrong": "That is not the number of drivers of the plan ({n}).",
    "confirm.yes": "Execute",
    "confirm.cancel": "Cancel",
    "problem.401": "The session has ended. Sign in again.",
    "problem.403": "Not allowed.",
    "problem.404": "Not found.",
    "problem.409": "Nothing was done: another run is on, or the plan no longer holds.",
    "problem.422": "The request is not valid. Check the limit.",
    "problem.429": "Too many tries. Wait a minute.",
    "problem.503": "The database does not answer.",
    "problem.500": "The server could not do it.",
    "problem.network": "The console cannot be reached. Check that its server is still running.",
    "driver.back": "Back to the list",
    "driver.verdict": "Verdict",
    "driver.orphan": "An orphan",
    "driver.no_orphan": "No orphan",
    "verdict.orphan": "Linked to person {person}, who has no lead at all.",
    "verdict.purged": "A purge removed its driver link, and keeps it in the ledger.",
    "verdict.no_link": "It has no driver link, so it belongs to no person.",
    "verdict.has_lead": "Linked to person {person}, who has a lead: {leads}.",
    "driver.facts": "Facts",
    "fact.person": "Person",
    "fact.link": "Link",
    "fact.link.says": "{rule}, confidence {confidence}",
    "fact.linked_at": "Linked",
    "fact.detected": "Detected",
    "fact.resolved": "Resolved",
    "fact.note": "Note",
    "fact.kept_link": "Link kept by the purge",
    "driver.evidence": "Evidence",
    "evidence.proves.1": "A lead event names this driver: the strongest evidence (level 1).",
    "evidence.proves.both_exact": "A lead event has the same licence and phone (level 2).",
    "evidence.proves.license_exact": "A lead event has the same licence (level 2).",
    "evidence.proves.phone_exact": "A lead event has the same phone (level 2).",
    "evidence.rows": "These prove the lead: {rows}.",
    "evidence.refused.one": "{n} lead event matches, but does not prove a lead ({why}).",
    "evidence.refused.many": "{n} lead events match, but none proves a lead ({why}).",
    "evidence.weak_only.one": "No lead event names the driver or has its licence or phone; {n} "
    "carries only the key of its person, which proves nothing.",
    "evidence.weak_only.many": "No lead event names the driver or has its licence or phone; {n} "
    "carry only the key of its person, which proves nothing.",
    "evidence.nothing": "No lead event names the driver or has its licence or phone.",
    "evidence.not_asked": "It is no orphan and not in quarantine: there is no evidence to look "
    "for.",
    "evidence.rivals": "Refused events",
    "evidence.weak": "Weak events",
    "evidence.weak.says": "They carry only the person's key. They are context for a reviewer.",
    "rival.matched_by": "Matches by {kinds} (level {level})",
    "kind.driver_id": "driver id",
    "kind.license": "licence",
    "kind.phone": "phone",
    "refusal.ambiguous": "it speaks for several persons",
    "refusal.lead_already_linked": "its lead row is another person's already",
    "refusal.event_of_another_person": "the event belongs to another person",
    "rival.persons": "Persons: {persons}",
    "rival.linked_to": "The lead row belongs to {person}",
    "rival.event_of": "The event belongs to {person}",
    "driver.next": "What a fix would do",
    "next.nothing": "A fix would leave it as it is.",
    "next.relink": "A fix would relink it with its lead.",
    "next.quarantine": "A fix would put it into quarantine.",
    "next.quarantine_again": "A fix would record the new evidence; it would stay in quarantine.",
    "next.release": "A fix would release it: its person has a lead by now.",
    "next.reprocess": "Only when it is asked to look again at those in quarantine.",
    "driver.history": "History",
    "history.says": "The ledger only grows: each change is a new entry.",
    "history.none": "The ledger has no entry of this driver.",
    "history.by": "by {by}",
    "history.for": "for {actor}",
    "history.run": "run {run}",
    "history.undoes": "undoes run {run}",
    "history.withdrawn": "Taken out of quarantine",
    "history.revision": "Revision {n}",
    "recorded.relinked.one": "Relinked with {n} lead event, {strategy}.",
    "recorded.relinked.many": "Relinked with {n} lead events; the strongest, {strategy}.",
    "recorded.released": "Released: its person has a lead by now ({lead}).",
    "driver.views": "Views that show it",
    "view.shown": "Shows it",
    "view.hidden": "Does not show it",
    "view.excluded": "because it is excluded: {status}",
    "view.ops.v_driver_orphans": "Record of orphans",
    "view.ops.v_cabinet_funnel_status": "Funnel",
    "view.ops.v_payment_calculation": "Payments",
    "view.ops.v_ct4_eligible_drivers": "Eligible",
    "why_not.ops.v_driver_orphans": "it was never in quarantine",
    "why_not.ops.v_cabinet_funnel_status": "it has no driver link and no trips",
    "why_not.ops.v_payment_calculation": "no lead event of its person meets a rule",
    "why_not.ops.v_ct4_eligible_drivers": "no lead event of its person makes it eligible",
    "driver.unknown.title": "The database does not know this driver",
    "driver.unknown.says": "No link, entry or view has the id {driver_id}. Check the id: it is 32 "
    "characters, 0 to 9 and a to f.",
    "dashboard.title": "Dashboard",
    "dashboard.says": "Orphans, acceptance criteria, funnel and last runs.",
    "dashboard.orphans": "Orphans",
    "dashboard.see_list": "See the list",
    "criteria.title": "Acceptance criteria",
    "criteria.says": "Counted live. Green: no violations.",
    "criteria.without_script": "See criteria and funnel (takes some seconds)",
    "criteria.error": "The criteria could not be read.",
    "criteria.at": "Counted: {at}",
    "criteria.checked.one": "{n} row checked",
    "criteria.checked.many": "{n} rows checked",
    "criteria.violations.one": "{n} violation",
    "criteria.violations.many": "{n} violations",
    "criteria.green": "Holds",
    "criteria.red": "Broken",
    "criteria.unknown": "Not verified",
    "criteria.unknown.do": "It must be verified once at least: run `orphans verify`.",
    "criteria.red.do": "See the rows in the schema `ct4_orphans_audit`, or run `orphans verify`: "
    "it says what to do.",
    "criterion.1": "No driver without a lead operates",
    "criterion.2": "Nobody shut out is shown or paid",
    "criterion.3": "Each driver without a lead is recorded",
    "criterion.4": "The page works",
    "criterion.4.says": "Checked by opening it: the dashboard has just read the list of orphans.",
    "criterion.4.broken": "The dashboard could not read the list of orphans.",
    "criterion.5": "Quarantine and leads agree",
    "check.criterion_1_drivers_without_lead_outside_quarantine": "without lead, not in quarantine",
    "check.criterion_2_excluded_drivers_in_funnel": "shut out, in the funnel",
    "check.criterion_2_excluded_drivers_in_payments": "shut out, in the payments",
    "check.criterion_2_excluded_drivers_in_eligible": "shut out, among the eligible",
    "check.criterion_3_drivers_without_lead_without_record": "without lead and record",
    "check.criterion_5_quarantined_drivers_with_a_lead": "in quarantine with a lead",
    "check.criterion_5_released_drivers_without_lead": "released without a lead",
    "check.criterion_5_relinks_and_ledger_disagree": "links and ledger disagree",
    "check.criterion_5_ledger_history_has_gaps": "gaps in the history",
    "funnel.title": "Funnel",
    "funnel.says.one": "{n} driver who is not shut out.",
    "funnel.says.many": "{n} drivers who are not shut out.",
    "funnel.error": "The funnel could not be read.",
    "funnel.none": "The funnel is empty. Check that CT4's loads have run.",
    "stage.registered_incomplete": "Registration incomplete",
    "stage.registered_complete": "Registered, never connected",
    "stage.connected_no_trips": "Connected, no trips",
    "stage.reached_m1": "Milestone of 1 trip",
    "stage.reached_m5": "Milestone of 5 trips",
    "stage.reached_m25": "Milestone of 25 trips",
    "runs.title": "Last runs",
    "runs.says": "Of any command that wrote to the ledger.",
    "runs.none": "There are no runs yet. The first will be an execute of the fix.",
    "runs.error": "The runs could not be read.",
    "runs.caption": "Last runs, the newest first",
    "runs.col.when": "When",
    "runs.col.who": "Who",
    "runs.col.what": "What",
    "runs.col.entries": "Entries",
    "runs.col.run": "Run",
    "runs.not_ended": "no end: running, or cut off",
    "health.title": "Health",
    "health.ok": "Connected",
    "health.unavailable": "Not connected",
    "health.database": "Database",
    "health.reads_as": "Reads as",
    "health.fix": "Executing",
    "health.fix.on": "switched on",
    "health.fix.off": "switched off",
    "health.version": "Version",
    "database.away.title": "The database does not answer",
    "database.away.says": "The console is still running. Check that the database server is up, and "
    "try again.",
    "sign_in.title": "Sign in",
    "sign_in.says": "Use the token that whoever runs the console gave you.",
    "sign_in.token": "Token",
    "sign_in.submit": "Sign in",
    "sign_in.wrong": "The token is not valid. Check that it is complete, without spaces.",
    "sign_in.too_many": "Too many tries. Wait a minute.",
    "sign_in.needed": "Sign in to see this page.",
    "sign_in.signed_out": "You are signed out.",
    "sign_in.not_needed": "This console was started without tokens: it is read from this machine, "
    "without a session. To have sessions, start it with `orphans serve --tokens FILE`.",
    "sign_in.lost": "No token? Whoever runs the console makes one with `orphans token NAME`.",
    "sign_in.other_site": "The request came from another site. Sign in from this page.",
    "forbidden.title": "Not allowed",
    "forbidden.says": "This session may not see this. Ask whoever runs the console for the "
    "permission.",
    "not_found.title": "There is no such page",
    "not_found.says": "Check the address, or go back to the dashboard.",
    "error.title": "Something went wrong",
    "error.says": "The console could not show this page. Try again; if it stays like this, look at "
    "the server's log.",
}

LANGUAGES: dict[str, dict[str, str]] = {"es": ES, "en": EN}

# The strings of Peru's Spanish and of English: thousands are separated by a comma in both.
LOCALES = {"es": "es-PE", "en": "en-GB"}
MONTHS = {
    "es": ["ene", "feb", "mar", "abr", "may", "jun", "jul", "ago", "sep", "oct", "nov", "dic"],
    "en": ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"],
}

# What the fix itself writes into the ledger (int_orphan_fixes, int_quarantine_releases). All else
# in there was written by people, and stays as it is.
RECORDED = {
    "relinked": r"Relinked: (\d+) lead events? at evidence level \d; .* \((\w+)\)\.",
    "refused": r"Quarantined: (\d+) lead event\(s\) match, but none proves a lead \((.*)\)\.",
    "weak": r"Quarantined: no lead event names .*; (\d+) carry only its person_key, .*\.",
    "nothing": r"Quarantined: no lead event names the driver or has its licence or phone\.",
    "released": r"Released: the person has a lead by now \((.*)\)\.",
}


@dataclass(frozen=True)
class Words:
    """All that depends on the language of a page."""

    language: str

    def __call__(self, key: str, **values: Any) -> str:
        """Return the text of a key."""
        text = LANGUAGES[self.language][key]
        return text.format(**values) if values else text

    def known(self, prefix: str, name: Any) -> str:
        """Return the text of a name out of the data; a name that nobody knows says itself."""
        return LANGUAGES[self.language].get(f"{prefix}.{name or 'none'}", str(name))

    def many(self, key: str, n: int, **values: Any) -> str:
        """Return the text for a count, in its singular or plural."""
        return self(f"{key}.{'one' if n == 1 else 'many'}", n=self.number(n), **values)

    @property
    def locale(self) -> str:
        """The tag of the language for a browser: `lang`, and the format of numbers."""
        return LOCALES[self.language]

    @property
    def other(self) -> str:
        """The language to switch to."""
        return "en" if self.language == "es" else "es"

    def number(self, n: int | None) -> str:
        """Return a count as people write it."""
        return self("none") if n is None else f"{n:,}"

    def percent(self, part: int, whole: int) -> str:
        """Return a share; what is not all is never said to be 100 %."""
        if not whole:
            return self("none")
        share = 100 * part / whole
        if 0 < share < 1:
            return "<1\u00a0%"
        return f"{round(share) if part == whole else min(round(share), 99)}\u00a0%"

    def day(self, at: date) -> str:
        """Return a date; the month is a word, so that nobody takes it for the day."""
        return f"{at.day} {MONTHS[self.language][at.month - 1]} {at.year}"

    def minute(self, at: datetime) -> str:
        """Return a time in UTC, to the minute."""
        utc = at.astimezone(timezone.utc)
        return f"{self.day(utc)}, {utc:%H:%M}"

    def listed(self, items: Sequence[str]) -> str:
        """Return "a, b and c"."""
        if len(items) < 2:
            return "".join(items)
        return f"{', '.join(items[:-1])} {self('and')} {items[-1]}"

    def lead_rows(self, lead_rows: Sequence[Any]) -> str:
        """Name the first rows of lead sources, and how many more there are."""
        named = [
            "{source_table} {source_pk}".format_map(_row(row))
            for row in lead_rows[:LEAD_ROWS_NAMED]
        ]
        if left := len(lead_rows) - len(named):
            return f"{', '.join(named)} {self.many('more', left)}"
        return self.listed(named)

    # --- sentences ---

    def verdict(self, found: Explanation) -> str:
        """Say why a driver is or is not an orphan."""
        if found.driver_link is None:
            kept = found.quarantine and found.quarantine.kept_driver_link
            return self("verdict.purged" if kept else "verdict.no_link")
        if found.is_orphan:
            return self("verdict.orphan", person=found.person_key)
        return self("verdict.has_lead", person=found.person_key, leads=self.lead_rows(found.leads))

    def evidence(self, found: Explanation) -> str:
        """Say what the lead events prove of a driver."""
        if found.evidence is None:
            return self("evidence.not_asked")
        evidence = found.evidence
        if evidence.is_repairable:
            return self._proof(evidence.evidence_level, evidence.strategy, evidence.lead_rows)
        return self._no_proof(evidence.rivals, evidence.weak_events)

    def next_step(self, found: Explanation) -> str:
        """Say what a fix would do to a driver."""
        if found.plan is None:
            return self("next.nothing")
        action = found.plan.action
        is_in = found.quarantine is not None and found.quarantine.status.value == "quarantined"
        if action == "quarantine" and is_in:
            action = "quarantine_again"
        says = self.known("next", action)
        return f"{says} {self('next.reprocess')}" if found.plan.requires_reprocess else says

    def why(self, driver: PlannedDriver) -> str:
        """Say why a run does to a driver what it does."""
        if driver.error:
            return driver.error
        if driver.action == "relink":
            return self._proof(driver.evidence_level, driver.strategy, driver.lead_rows or [])
        if driver.action == "release":
            return self("next.release")
        if driver.action == "quarantine":
            return self._no_proof(driver.rivals or [], driver.weak_events or [])
        return self.known("outcome", driver.outcome)

    def rival(self, rival: Mapping[str, Any]) -> Iterator[str]:
        """Say of a refused event what it matches by, why it was refused, and whose it is."""
        if kinds := rival.get("matched_by"):
            names = [self.known("kind", kind) for kind in kinds]
            level = rival.get("evidence_level", self("none"))
            yield self("rival.matched_by", kinds=self.listed(names), level=level)
        if len(persons := rival.get("persons") or []) > 1:
            yield self("rival.persons", persons=", ".join(map(str, persons)))
        if person := rival.get("lead_row_linked_to"):
            yield self("rival.linked_to", person=person)
        if person := rival.get("event_of_person"):
            yield self("rival.event_of", person=person)

    def view(self, name: str, found: Explanation) -> str:
        """Say why a view does not show a driver."""
        if found.is_excluded and found.quarantine and name != "ops.v_driver_orphans":
            status = self.known("status", found.quarantine.status.value)
            return self("view.excluded", status=status.lower())
        return self.known("why_not", name)

    def entry(self, entry: Entry) -> str:
        """Name what an entry of the ledger did to a driver."""
        if entry.status is None:
            return self("history.withdrawn")
        return self.known("status", entry.status.value)

    def recorded(self, text: str) -> str:
        """Return what the ledger has in words: a fix's in this language, a person's as it is."""
        for kind, pattern in RECORDED.items():
            found = re.fullmatch(pattern, text)
            if found is None:
                continue
            if kind == "relinked":
                strategy = self.known("strategy", found[2])
                return self.many("recorded.relinked", int(found[1]), strategy=strategy)
            if kind == "refused":
                refusals = [name.replace(" ", "_") for name in found[2].split(", ")]
                return self._refused(int(found[1]), refusals)
            if kind == "weak":
                return self.many("evidence.weak_only", int(found[1]))
            if kind == "nothing":
                return self("evidence.nothing")
            return self("recorded.released", lead=found[1])
        return text

    def _proof(self, level: Any, strategy: str | None, lead_rows: Sequence[Any]) -> str:
        says = self.known("evidence.proves", "1" if str(level) == "1" else strategy)
        return f"{says} {self('evidence.rows', rows=self.lead_rows(lead_rows))}"

    def _refused(self, events: int, refusals: Sequence[str]) -> str:
        why = "; ".join(self.known("refusal", name) for name in refusals)
        return self.many("evidence.refused", events, why=why)

    def _no_proof(self, rivals: Sequence[Any], weak_events: Sequence[Any]) -> str:
        if rivals:
            refusals = dict.fromkeys(str(_row(rival).get("refusal")) for rival in rivals)
            return self._refused(len(rivals), list(refusals))
        if weak_events:
            return self.many("evidence.weak_only", len(weak_events))
        return self("evidence.nothing")


def _row(row: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = row if isinstance(row, Mapping) else row.model_dump()
    return found
